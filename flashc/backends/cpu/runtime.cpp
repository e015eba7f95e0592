// The threads that all CPU kernels of a process share; tasks are handed out by an atomic counter. One parallel region
// at a time: a nested or concurrent call waits its turn.
//
// A pool whose workers sleep on a condition variable after a short spin does the work. But where GNU OpenMP is in the
// process (PyTorch brings it), its threads spin for milliseconds after each of its regions, and the pool would have to
// share the cores with them: while they spin, they do the work.
#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

struct Call;
typedef void (*Task)(const Call*, long, char*);
struct Member {  // as in prelude.hpp
  long index, crew;
  char *kept, *scratch;
  long* arrivals;
  long due;
};
typedef void (*Crew)(const Call*, Member);

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
thread_local Scratch scratch, kept;

struct Work {  // one parallel region
  long tasks = 0;
  Task task = nullptr;
  const Call* call = nullptr;
  long bytes = 0;
  int threads = 1;
  Crew crew = nullptr;  // instead of tasks: every thread runs it once, all at the same time
  char* kept = nullptr;
  alignas(64) std::atomic<long> next{0};  // what changes has cache lines of its own
  alignas(64) long arrivals = 0;

  void run(int members) {
    char* buffer = scratch.at_least(bytes);
    if (crew) return crew(call, Member{next.fetch_add(1, std::memory_order_relaxed), members, kept, buffer, &arrivals, 0});
    for (long t; (t = next.fetch_add(1, std::memory_order_relaxed)) < tasks;) task(call, t, buffer);
  }
};

// Which core each worker is bound to, while a region uses every core there is: a woken thread is otherwise often queued
// behind its waker, with the other core idle for milliseconds.
struct Binding {
  std::vector<int> cores;  // that the process may use; worker n has core n, and `spare` is left to the caller
  int spare = 0;

  Binding() {
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    for (int c = 0; c < CPU_SETSIZE; ++c)
      if (CPU_ISSET(c, &allowed)) cores.push_back(c);
    if (cores.empty()) return;
    spare = cores.back();
    cores.pop_back();
  }

  void make_way(std::vector<std::thread>& workers) {
    const int here = sched_getcpu();
    const auto taken = std::find(cores.begin(), cores.end(), here);
    if (taken == cores.end()) return;
    *taken = std::exchange(spare, here);
    bind(workers[taken - cores.begin()], *taken);
  }

  static void bind(std::thread& worker, int core) {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(core, &one);
    pthread_setaffinity_np(worker.native_handle(), sizeof one, &one);  // a refusal only costs time
  }
};

struct Pool {
  std::mutex m;
  std::condition_variable wake;
  std::vector<std::thread> workers;
  Binding binding;
  std::atomic<long> epoch{0}, running{0};
  Work* work = nullptr;

  void start(int wanted) {
    while ((int)workers.size() < wanted) {
      const int index = (int)workers.size();
      workers.emplace_back(&Pool::loop, this, index, epoch.load());
      if (wanted == (int)binding.cores.size()) Binding::bind(workers.back(), binding.cores[index]);
    }
    if (wanted == (int)binding.cores.size()) binding.make_way(workers);
  }

  void loop(int index, long seen) {
    for (;;) {
      for (int n = 0; n < kSpins && epoch.load(std::memory_order_acquire) == seen; ++n) relax();
      if (epoch.load(std::memory_order_acquire) == seen) {
        std::unique_lock<std::mutex> lock(m);
        wake.wait(lock, [&] { return epoch.load() != seen; });
      }
      seen = epoch.load(std::memory_order_acquire);
      if (index < work->threads - 1) work->run(work->threads);
      running.fetch_sub(1, std::memory_order_release);
    }
  }

  void run(Work& region) {
    work = &region;
    start(region.threads - 1);
    running.store((long)workers.size());
    {
      std::lock_guard<std::mutex> lock(m);
      epoch.fetch_add(1, std::memory_order_release);
    }
    wake.notify_all();
    region.run(region.threads);
    for (int n = 0; running.load(std::memory_order_acquire) > 0; ++n) n < kSpins ? relax() : (void)sched_yield();
  }
};

// libgomp's entry point of a parallel region: runs `body(data)` on each of `threads` threads.
typedef void (*Parallel)(void (*body)(void*), void* data, unsigned threads, unsigned flags);

// The threads that GNU OpenMP keeps for one calling thread.
struct Team {
  pthread_t caller{};
  clockid_t worker{};  // processor time of one of them
  bool known = false;

  // A thread that spins uses processor time.
  bool awake(Parallel parallel) {
    caller = pthread_self();
    if (!known) parallel(meet, this, 2, 0);
    if (!known) return false;
    const long before = used();
    for (int n = 0; n < 8; ++n) relax();
    return used() != before;
  }

  static void meet(void* met) {
    Team* team = static_cast<Team*>(met);
    if (pthread_equal(pthread_self(), team->caller)) return;
    team->known = pthread_getcpuclockid(pthread_self(), &team->worker) == 0;
  }

  long used() const {
    timespec t{};
    clock_gettime(worker, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
  }
};
thread_local Team team;

int (*team_size)() = nullptr;  // libgomp's: it may give a region fewer threads than were asked for

struct Process {
  const bool forked;
  std::mutex region;  // held for a whole parallel region
  Pool pool;
  std::atomic<Parallel> openmp{nullptr};

  void run(Work& work) {
    std::lock_guard<std::mutex> one(region);
    Parallel parallel = openmp.load();
    if (parallel && team.awake(parallel)) return parallel(work.crew ? crew : body, &work, work.threads, 0);
    pool.run(work);
  }

  static void body(void* work) { static_cast<Work*>(work)->run(1); }
  static void crew(void* work) { static_cast<Work*>(work)->run(team_size()); }
};

std::atomic<Process*> process{nullptr};
std::once_flag fork_handler;

// A forked child has none of the parent's threads, neither of the pool nor of OpenMP: it starts a pool of its own and
// leaks the parent's, whose threads no longer exist to be joined.
Process* current() {
  std::call_once(fork_handler, [] { pthread_atfork(nullptr, nullptr, [] { process.store(new Process{true}); }); });
  Process* found = process.load();
  if (found) return found;
  Process* fresh = new Process{false};
  if (process.compare_exchange_strong(found, fresh)) return fresh;
  delete fresh;
  return found;
}

}  // namespace

extern "C" void flashc_parallel(long tasks, Task task, const Call* call, long bytes, int threads) {
  Work work;
  work.tasks = tasks, work.task = task, work.call = call, work.bytes = bytes;
  work.threads = (int)std::min<long>(threads, tasks);
  work.threads > 1 ? current()->run(work) : work.run(1);
}

// Threads that meet: as many as there are tasks, at most. `kept_bytes` are theirs together, from the first step to the last.
extern "C" void flashc_together(long tasks, Crew crew, const Call* call, long kept_bytes, long bytes, int threads) {
  if (tasks < 1) return;
  Work work;
  work.crew = crew, work.call = call, work.bytes = bytes, work.kept = kept.at_least(kept_bytes);
  work.threads = (int)std::min<long>(threads, tasks);
  work.threads > 1 ? current()->run(work) : work.run(1);
}

// Look for GNU OpenMP in the process, in a forked child excepted; whether its threads are used when they are awake.
extern "C" bool flashc_join_openmp() {
  Process* here = current();
  if (here->forked || here->openmp.load()) return here->openmp.load() != nullptr;
  void* library = dlopen("libgomp.so.1", RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return false;
  team_size = reinterpret_cast<int (*)()>(dlsym(library, "omp_get_num_threads"));
  if (team_size) here->openmp.store(reinterpret_cast<Parallel>(dlsym(library, "GOMP_parallel")));
  return here->openmp.load() != nullptr;
}
