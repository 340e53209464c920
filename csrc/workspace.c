/* Scratch memory of a thread: it grows, is used again by the next call, and is freed when the thread ends. */
#include <pthread.h>
#include <stdlib.h>

#include "launcher.h"

#define ALIGNMENT 64

static _Thread_local void* current;
static _Thread_local size_t current_bytes;
static pthread_key_t key;
static pthread_once_t once = PTHREAD_ONCE_INIT;
static int failed;

static void start(void) { failed = pthread_key_create(&key, free); }

void* workspace_of(int64_t bytes) {
  if ((size_t)bytes <= current_bytes) return current;
  if ((uint64_t)bytes > SIZE_MAX / 2) return NULL;
  size_t rounded = ((size_t)bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  void* memory = NULL;
  pthread_once(&once, start);
  if (failed || posix_memalign(&memory, ALIGNMENT, rounded)) return NULL;
  if (pthread_setspecific(key, memory)) return free(memory), NULL;
  free(current);
  current = memory, current_bytes = rounded;
  return memory;
}
