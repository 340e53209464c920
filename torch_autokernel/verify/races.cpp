// A run time for code compiled with -fsanitize=thread -fopenmp, linked instead of libtsan and libgomp.
//
// The threads of a team are fibers of one thread, four of them, that take turns at barriers and between chunks of a loop. Every
// access inside a parallel region is recorded for each byte: who wrote, who read, since the last barrier, holding which locks.
// Two accesses of different threads with no barrier between them, one of them a write, not both atomic and without a common
// lock, are a race, whether or not it would have shown. libtsan would have to see into libgomp's barriers, which it cannot.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>
#include <unordered_map>
#include <vector>

extern "C" const char __ehdr_start __attribute__((visibility("hidden")));

namespace {
constexpr int TEAM = 4;
constexpr size_t STACK = 8 << 20;  // as a thread has; what is not touched costs nothing

struct Fiber {
  ucontext_t context;
  bool done = false, waiting = false;
  size_t constructs = 0, share = 0;
  uint64_t locks = 0;
};
struct Share { long next, end, step, chunk; bool begun, taken; };
struct Byte {
  uint64_t epoch = 0, locks = 0;
  int writer = -1, readers[2] = {-1, -1};
  bool atomic = false;
  uintptr_t write_pc = 0, read_pc[2] = {0, 0};
};

Fiber* team[64];
void* stacks[64];
int size_ = 1, me = 0;
bool active = false, inside = false;  // inside: this run time is at work on its own tables
uint64_t epoch = 1;
ucontext_t scheduler;
std::vector<Share> shares;
struct Page { Byte bytes[4096]; };
std::unordered_map<uintptr_t, Page*> pages;  // kept from one region to the next: what is older than the epoch does not count
uintptr_t last_number = ~(uintptr_t)0;
Page* last_page = nullptr;
std::unordered_map<const void*, int> lock_numbers;
void (*body)(void*);
void* body_data;

void race(uintptr_t at, bool write, uintptr_t pc, bool other_write, uintptr_t other_pc) {
  const uintptr_t base = (uintptr_t)&__ehdr_start;
  char text[256];
  const int n = snprintf(text, sizeof text, "race %s %#lx %s %#lx at %#lx\n", write ? "write" : "read", (long)(pc - base),
                         other_write ? "write" : "read", (long)(other_pc - base), (long)at);
  if (::write(2, text, n) != n) _exit(67);
  _exit(66);
}

Byte& byte_at(uintptr_t p) {
  const uintptr_t number = p / 4096;
  if (number != last_number) {
    Page*& page = pages[number];
    if (!page) page = new Page;
    last_number = number, last_page = page;
  }
  return last_page->bytes[p % 4096];
}

void note(uintptr_t at, size_t count, bool write, bool atomic, uintptr_t pc) {
  if (!active || inside) return;
  inside = true;
  const uint64_t locks = team[me]->locks;
  for (uintptr_t p = at; p < at + count; ++p) {
    Byte& b = byte_at(p);
    if (b.epoch != epoch) b = Byte(), b.epoch = epoch, b.locks = ~0ull;
    const bool apart = !(locks & b.locks);
    if (b.writer >= 0 && b.writer != me && apart && !(atomic && b.atomic)) race(p, write, pc, true, b.write_pc);
    if (write)
      for (int k = 0; k < 2; ++k)
        if (b.readers[k] >= 0 && b.readers[k] != me && apart && !(atomic && b.atomic)) race(p, true, pc, false, b.read_pc[k]);
    if (b.writer < 0 && b.readers[0] < 0) b.atomic = atomic;
    b.atomic &= atomic;
    b.locks &= locks;
    if (write) b.writer = me, b.write_pc = pc;
    else if (b.readers[0] < 0 || b.readers[0] == me) b.readers[0] = me, b.read_pc[0] = pc;
    else b.readers[1] = me, b.read_pc[1] = pc;
  }
  inside = false;
}

void yield() { if (active) swapcontext(&team[me]->context, &scheduler); }
void barrier() { if (active) team[me]->waiting = true, yield(); }
void start() {
  body(body_data);
  team[me]->done = true;
  swapcontext(&team[me]->context, &scheduler);
}

void parallel(void (*function)(void*), void* data, unsigned threads) {
  if (active) {  // a nested region is run by its own thread alone
    function(data);
    return;
  }
  size_ = threads ? (threads < 64 ? threads : 64) : TEAM;
  body = function, body_data = data;
  for (int i = 0; i < size_; ++i) {
    Fiber* f = team[i] = new Fiber;
    if (!stacks[i]) stacks[i] = mmap(nullptr, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks[i] == MAP_FAILED) _exit(67);
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = stacks[i], f->context.uc_stack.ss_size = STACK, f->context.uc_link = &scheduler;
    makecontext(&f->context, start, 0);
  }
  active = true, ++epoch;
  for (int left = size_; left;) {
    left = 0;
    int waiting = 0;
    for (int i = 0; i < size_; ++i) {
      if (!team[i]->done && !team[i]->waiting) me = i, swapcontext(&scheduler, &team[i]->context);
      left += !team[i]->done, waiting += !team[i]->done && team[i]->waiting;
    }
    if (left && waiting == left) {
      ++epoch;
      for (int i = 0; i < size_; ++i) team[i]->waiting = false;
    }
  }
  active = false, ++epoch, me = 0, size_ = 1;
  shares.clear();
  for (int i = 0; i < 64 && team[i]; ++i) delete team[i], team[i] = nullptr;
}

Share* construct() {
  static Share alone;
  if (!active) return &(alone = Share());
  Fiber* f = team[me];
  f->share = f->constructs++;
  inside = true;
  if (shares.size() <= f->share) shares.resize(f->share + 1);
  inside = false;
  return &shares[f->share];
}
bool next(Share* s, long* from, long* to) {
  yield();
  if (active) s = &shares[team[me]->share];
  if (s->step > 0 ? s->next >= s->end : s->next <= s->end) return false;
  *from = s->next;
  s->next += s->step * s->chunk;
  if (s->step > 0 ? s->next > s->end : s->next < s->end) s->next = s->end;
  *to = s->next;
  return true;
}
void begin(Share* s, long first, long end, long step, long chunk) {
  if (!s->begun) *s = Share{first, end, step, chunk < 1 ? 1 : chunk, true, false};
}
Share single_thread;
Share* current() { return active ? &shares[team[me]->share] : &single_thread; }
bool loop(long first, long end, long step, long chunk, long* from, long* to) {
  Share* s = active ? construct() : &(single_thread = Share());
  begin(s, first, end, step, chunk);
  return next(s, from, to);
}
uint64_t bit(const void* name) {
  inside = true;
  const int number = lock_numbers.emplace(name, (int)lock_numbers.size() % 64).first->second;
  inside = false;
  return 1ull << number;
}
void lock(const void* name) { if (active) team[me]->locks |= bit(name); }
void unlock(const void* name) { if (active) team[me]->locks &= ~bit(name); }
struct Combined { void (*function)(void*); void* data; long first, end, step, chunk; };
void combined(void* data) {
  Combined* c = (Combined*)data;
  Share* s = active ? construct() : &(single_thread = Share());
  begin(s, c->first, c->end, c->step, c->chunk);
  c->function(c->data);
}
const char anonymous = 0, atomics = 0;
}  // namespace

#define PC ((uintptr_t)__builtin_return_address(0) - 1)
extern "C" {
void __tsan_init() {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
#define ACCESS(n) \
  void __tsan_read##n(void* p) { note((uintptr_t)p, n, false, false, PC); } \
  void __tsan_write##n(void* p) { note((uintptr_t)p, n, true, false, PC); } \
  void __tsan_unaligned_read##n(void* p) { note((uintptr_t)p, n, false, false, PC); } \
  void __tsan_unaligned_write##n(void* p) { note((uintptr_t)p, n, true, false, PC); } \
  void __tsan_volatile_read##n(void* p) { note((uintptr_t)p, n, false, false, PC); } \
  void __tsan_volatile_write##n(void* p) { note((uintptr_t)p, n, true, false, PC); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
void __tsan_read_range(void* p, unsigned long n) { note((uintptr_t)p, n, false, false, PC); }
void __tsan_write_range(void* p, unsigned long n) { note((uintptr_t)p, n, true, false, PC); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}

#define ATOMIC(bits, T) \
  T __tsan_atomic##bits##_load(const volatile T* p, int) { note((uintptr_t)p, sizeof(T), false, true, PC); return *p; } \
  void __tsan_atomic##bits##_store(volatile T* p, T v, int) { note((uintptr_t)p, sizeof(T), true, true, PC); *p = v; } \
  T __tsan_atomic##bits##_exchange(volatile T* p, T v, int) { note((uintptr_t)p, sizeof(T), true, true, PC); T o = *p; *p = v; return o; } \
  T __tsan_atomic##bits##_fetch_add(volatile T* p, T v, int) { note((uintptr_t)p, sizeof(T), true, true, PC); T o = *p; *p = o + v; return o; } \
  T __tsan_atomic##bits##_fetch_sub(volatile T* p, T v, int) { note((uintptr_t)p, sizeof(T), true, true, PC); T o = *p; *p = o - v; return o; } \
  T __tsan_atomic##bits##_fetch_and(volatile T* p, T v, int) { note((uintptr_t)p, sizeof(T), true, true, PC); T o = *p; *p = o & v; return o; } \
  T __tsan_atomic##bits##_fetch_or(volatile T* p, T v, int) { note((uintptr_t)p, sizeof(T), true, true, PC); T o = *p; *p = o | v; return o; } \
  T __tsan_atomic##bits##_fetch_xor(volatile T* p, T v, int) { note((uintptr_t)p, sizeof(T), true, true, PC); T o = *p; *p = o ^ v; return o; } \
  T __tsan_atomic##bits##_compare_exchange_val(volatile T* p, T e, T v, int, int) { \
    note((uintptr_t)p, sizeof(T), true, true, PC); T o = *p; if (o == e) *p = v; return o; } \
  int __tsan_atomic##bits##_compare_exchange_strong(volatile T* p, T* e, T v, int, int) { \
    note((uintptr_t)p, sizeof(T), true, true, PC); if (*p == *e) { *p = v; return 1; } *e = *p; return 0; } \
  int __tsan_atomic##bits##_compare_exchange_weak(volatile T* p, T* e, T v, int, int) { \
    note((uintptr_t)p, sizeof(T), true, true, PC); if (*p == *e) { *p = v; return 1; } *e = *p; return 0; }
ATOMIC(8, uint8_t) ATOMIC(16, uint16_t) ATOMIC(32, uint32_t) ATOMIC(64, uint64_t)
void __tsan_atomic_thread_fence(int) {}
void __tsan_atomic_signal_fence(int) {}

__attribute__((visibility("hidden"))) void* memcpy(void* to, const void* from, size_t n) {
  note((uintptr_t)from, n, false, false, PC), note((uintptr_t)to, n, true, false, PC);
  for (size_t i = 0; i < n; ++i) ((volatile char*)to)[i] = ((const char*)from)[i];
  return to;
}
__attribute__((visibility("hidden"))) void* memset(void* to, int value, size_t n) {
  note((uintptr_t)to, n, true, false, PC);
  for (size_t i = 0; i < n; ++i) ((volatile char*)to)[i] = (char)value;
  return to;
}

void GOMP_parallel(void (*f)(void*), void* data, unsigned threads, unsigned) { parallel(f, data, threads); }
unsigned GOMP_parallel_reductions(void (*f)(void*), void* data, unsigned threads, unsigned) { parallel(f, data, threads); return TEAM; }
void GOMP_barrier() { barrier(); }
void GOMP_critical_start() { lock(&anonymous); }
void GOMP_critical_end() { unlock(&anonymous); }
void GOMP_critical_name_start(void** name) { lock(name); }
void GOMP_critical_name_end(void** name) { unlock(name); }
void GOMP_atomic_start() { lock(&atomics); }
void GOMP_atomic_end() { unlock(&atomics); }
bool GOMP_single_start() {
  Share* s = construct();
  const bool first = !s->taken;
  s->taken = true;
  return first;
}
void GOMP_loop_end() { barrier(); }
void GOMP_loop_end_nowait() {}
#define LOOP(kind) \
  bool GOMP_loop_##kind##_start(long a, long b, long s, long c, long* f, long* t) { return loop(a, b, s, c, f, t); } \
  bool GOMP_loop_##kind##_next(long* f, long* t) { return next(current(), f, t); } \
  void GOMP_parallel_loop_##kind(void (*f)(void*), void* d, unsigned n, long a, long b, long s, long c, unsigned) { \
    Combined all{f, d, a, b, s, c}; parallel(combined, &all, n); }
LOOP(dynamic) LOOP(guided) LOOP(static) LOOP(nonmonotonic_dynamic) LOOP(nonmonotonic_guided)
#define LOOP_RUNTIME(kind) \
  bool GOMP_loop_##kind##_start(long a, long b, long s, long* f, long* t) { return loop(a, b, s, 1, f, t); } \
  bool GOMP_loop_##kind##_next(long* f, long* t) { return next(current(), f, t); } \
  void GOMP_parallel_loop_##kind(void (*f)(void*), void* d, unsigned n, long a, long b, long s, unsigned) { \
    Combined all{f, d, a, b, s, 1}; parallel(combined, &all, n); }
LOOP_RUNTIME(runtime) LOOP_RUNTIME(maybe_nonmonotonic_runtime) LOOP_RUNTIME(nonmonotonic_runtime)
unsigned GOMP_sections_start(unsigned count) {
  long from, to;
  return loop(1, count + 1, 1, 1, &from, &to) ? (unsigned)from : 0;
}
unsigned GOMP_sections_next() {
  long from, to;
  return next(current(), &from, &to) ? (unsigned)from : 0;
}
void GOMP_sections_end() { barrier(); }
void GOMP_sections_end_nowait() {}
int omp_get_thread_num() { return active ? me : 0; }
int omp_get_num_threads() { return active ? size_ : 1; }
int omp_get_max_threads() { return TEAM; }
int omp_get_num_procs() { return TEAM; }
int omp_in_parallel() { return active; }
int omp_get_level() { return active; }
void omp_set_num_threads(int) {}
}
