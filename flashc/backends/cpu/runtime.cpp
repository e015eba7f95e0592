// The thread pool that all CPU kernels of a process share: workers sleep on a condition variable after a short spin,
// tasks are handed out by an atomic counter. One parallel region at a time; a nested or concurrent call waits its turn.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>
#include <pthread.h>
#include <unistd.h>

struct Call;
typedef void (*Task)(const Call*, long, char*);

namespace {

constexpr int kSpins = 2000;  // pauses before a worker sleeps: under 0.2 ms

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

struct Scratch {  // per-thread buffer of the kernels, aligned for vectors
  char* data = nullptr;
  long bytes = 0;
  char* at_least(long need) {
    if (need > bytes) {
      std::free(data);
      bytes = (need + 4095) / 4096 * 4096;
      data = static_cast<char*>(std::aligned_alloc(4096, bytes));
      if (!data) std::abort();
    }
    return data;
  }
  ~Scratch() { std::free(data); }
};
thread_local Scratch scratch;

struct Pool {
  std::mutex region;  // held for a whole parallel region
  std::mutex m;
  std::condition_variable wake;
  std::vector<std::thread> workers;
  std::atomic<long> epoch{0}, next{0}, running{0};
  long tasks = 0, bytes = 0;
  int wanted = 0;
  Task task = nullptr;
  const Call* call = nullptr;
  bool stop = false;

  void work() {
    char* buffer = scratch.at_least(bytes);
    for (long t; (t = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(call, t, buffer);
  }

  void loop(int index, long seen) {
    for (;;) {
      for (int n = 0; n < kSpins && epoch.load(std::memory_order_acquire) == seen; ++n) relax();
      if (epoch.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(m);
        wake.wait(lock, [&] { return epoch.load() != seen || stop; });
      }
      if (stop) return;
      seen = epoch.load(std::memory_order_acquire);
      if (index < wanted) work();
      running.fetch_sub(1, std::memory_order_release);
    }
  }

  void run(long n, Task f, const Call* c, long need, int threads) {
    std::lock_guard<std::mutex> one(region);
    tasks = n, task = f, call = c, bytes = need, wanted = threads - 1;
    next.store(0);
    while ((int)workers.size() < wanted) workers.emplace_back(&Pool::loop, this, (int)workers.size(), epoch.load());
    running.store((long)workers.size());
    {
      std::lock_guard<std::mutex> lock(m);
      epoch.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    work();
    for (int n = 0; running.load(std::memory_order_acquire) > 0; ++n) n < kSpins ? relax() : (void)sched_yield();
  }
};

std::atomic<Pool*> pool{nullptr};
std::once_flag fork_handler;

Pool* current() {
  std::call_once(fork_handler, [] {
    // The child has none of the parent's threads: it starts a pool of its own and leaks the parent's, whose
    // threads no longer exist to be joined.
    pthread_atfork(nullptr, nullptr, [] { pool.store(nullptr); });
  });
  Pool* found = pool.load();
  if (found) return found;
  Pool* fresh = new Pool;
  if (pool.compare_exchange_strong(found, fresh)) return fresh;
  delete fresh;
  return found;
}

}  // namespace

extern "C" void flashc_parallel(long tasks, Task task, const Call* call, long bytes, int threads) {
  threads = (int)std::min<long>(threads, tasks);
  if (threads <= 1) {
    char* buffer = scratch.at_least(bytes);
    for (long t = 0; t < tasks; ++t) task(call, t, buffer);
    return;
  }
  current()->run(tasks, task, call, bytes, threads);
}
