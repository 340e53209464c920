// One object with many misdeeds: sizes[0] chooses. buffers[0] is an int64 of input, buffers[1] takes int64 results.
#include <arpa/inet.h>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <omp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void* sleeps(void*) { for (;;) pause(); }
static int depth(volatile int n) { volatile char pad[1024]; pad[0] = n; return depth(n + 1) + pad[0]; }
static int64_t tried(long result) { return result < 0 ? -errno : result; }

extern "C" void ak_entry(void* const* buffers, const int64_t* sizes, void* workspace, void*) {
  const int64_t* in = (const int64_t*)buffers[0];
  int64_t* out = (int64_t*)buffers[1];
  static int calls = 0;
  char text[4096];
  switch (sizes[0]) {
    case 0: out[0] = in[0] + 1; break;
    case 1: out[sizes[1]] = 7; break;                       // beside the output
    case 2: out[0] = in[sizes[1]]; break;                   // beside the input
    case 3: for (;;) {}
    case 4: *(volatile int*)nullptr = 1; break;
    case 5: abort();
    case 6: exit(0);
    case 7: _exit(3);
    case 8: out[0] = depth(0); break;
    case 9: out[0] = tried(fork()); break;
    case 10: execl("/bin/true", "true", nullptr); out[0] = -errno; break;
    case 11: out[0] = tried(socket(AF_INET, SOCK_STREAM, 0)); break;
    case 12: out[0] = tried(kill(getppid(), SIGKILL)); break;
    case 13: out[0] = tried(ptrace(PTRACE_ATTACH, getppid(), 0, 0)); break;
    case 14: out[0] = tried(open("/tmp/autokernel-hostile", O_CREAT | O_WRONLY, 0600)); break;
    case 15: out[0] = tried(open("/etc/passwd", O_RDONLY)); break;
    case 16: out[0] = tried(open("/proc/1/environ", O_RDONLY)); break;
    case 17: out[0] = (int64_t)mmap(nullptr, 100l << 30, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == -1 ? -errno : 1; break;
    case 18: { int64_t n = 0; pthread_t t; while (n < 100000 && pthread_create(&t, nullptr, sleeps, nullptr) == 0) ++n; out[0] = n; break; }
    case 19: memset(text, 'x', sizeof text); for (int i = 0; i < 100000; ++i) (void)!write(1, text, sizeof text); out[0] = 1; break;
    case 20: out[0] = omp_get_max_threads(); break;
    case 21: { int n = 0;
#pragma omp parallel reduction(+ : n)
      n += 1;
      out[0] = n; break; }
    case 22: out[0] = ++calls; break;
    case 23: out[0] = (int64_t)in; break;                   // the address
    case 24: out[0] = workspace ? ((int64_t*)workspace)[0] : -1; break;
    case 25: (void)!write(3, "{\"ns\": [1], \"turn\": 0}", 22); break;      // a forged answer
    case 26: (void)!write(3, "nonsense", 8); break;
    case 27: close(3); for (;;) {}
    case 28: out[0] = tried(ftruncate(4, 4096)); break;     // take memory away under the parent
    case 29: { rlimit most = {RLIM_INFINITY, RLIM_INFINITY}; out[0] = tried(setrlimit(RLIMIT_AS, &most)); break; }
    case 30: { iovec here = {text, 8}, there = {(void*)in, 8}; out[0] = tried(process_vm_readv(getppid(), &here, 1, &there, 1, 0)); break; }
    case 31: out[0] = tried(mkdir("/tmp/autokernel-hostile-dir", 0700)); break;
    case 32: out[0] = getenv("AUTOKERNEL_TEST_SECRET") != nullptr; break;
    case 34: for (;;) fork();
    case 35: {                                              // as much memory as there is, used
      void* p;
      while ((p = mmap(nullptr, 16 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) != MAP_FAILED) memset(p, 1, 16 << 20);
      out[0] = -errno;
      break;
    }
    case 36: out[0] = tried(kill(-1, SIGTERM)); break;
    case 33: out[0] = tried(syscall(SYS_prctl, 1, 0, 0, 0, 0)); break;     // outlive the parent
  }
}
