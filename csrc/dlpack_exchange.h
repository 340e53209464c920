/* The part of DLPack that the launcher uses: the C exchange API of version 1, which a tensor type offers as the
 * PyCapsule attribute `__dlpack_c_exchange_api__`. Declared here so that no torch header is needed; the layout was
 * compared with torch 2.13's copy (DLPack 1.3). Within a major version the layout does not change. */
#pragma once
#include <stdint.h>

#define DL_EXCHANGE_CAPSULE "dlpack_exchange_api"
#define DL_MAJOR 1u
#define DL_MINOR_LEAST 2u /* from 1.2 on, strides are always given */
#define DL_DEVICE_CPU 1
#define DL_BOOL 6

typedef struct {
  void* data;
  struct {
    int32_t type, index;
  } device;
  int32_t ndim;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t* shape;
  int64_t* strides; /* in elements */
  uint64_t byte_offset;
} DlTensor;

typedef struct DlExchangeHeader {
  uint32_t major, minor;
  struct DlExchangeHeader* older; /* what the producer offers to consumers of an older major version, or NULL */
} DlExchangeHeader;

typedef struct {
  DlExchangeHeader header;
  void* allocate;
  void* managed_from_object;
  void* managed_to_object;
  int (*tensor_from_object)(void* object, DlTensor* out); /* borrows; may be NULL; -1 with a Python error set */
  void* current_work_stream;
} DlExchange;
