// Micro-benchmarks of the CPU: read bandwidth and latency of a working set, multiply-add peaks, exponential rate.
// Written with the vector extensions of GCC and Clang; the vector width is that of the target.
// Every function runs on `threads` threads, thread t pinned to cpus[t], in kTrials trials of `seconds`
// that are shorter than a time slice, so that the best trial escapes most other load.

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <random>
#include <thread>
#include <vector>

#ifdef __linux__
#include <pthread.h>
#include <sched.h>
#endif
#ifdef __AVX512BF16__
#include <immintrin.h>
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

namespace {

#if defined(__AVX512F__)
constexpr int kBytes = 64, kChains = 16;
#elif defined(__AVX__)
constexpr int kBytes = 32, kChains = 12;
#elif defined(__aarch64__)
constexpr int kBytes = 16, kChains = 16;
#else
constexpr int kBytes = 16, kChains = 12;
#endif
constexpr int kTrials = 20;

#if defined(__AVX512FP16__)
using Half = _Float16;
#elif defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
using Half = __fp16;
#endif

typedef float Floats __attribute__((vector_size(kBytes)));
typedef double Doubles __attribute__((vector_size(kBytes)));
typedef std::int32_t Ints __attribute__((vector_size(kBytes)));
typedef std::uint64_t Words __attribute__((vector_size(kBytes)));

template <class T>
void keep(T& value) {  // an unknown use and change of the value in memory
  asm volatile("" : : "r"(&value) : "memory");
}

double now() {
  using Clock = std::chrono::steady_clock;
  return std::chrono::duration<double>(Clock::now().time_since_epoch()).count();
}

void pin(int cpu) {
#ifdef __linux__
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  pthread_setaffinity_np(pthread_self(), sizeof set, &set);  // a refusal only makes the figures noisier
#else
  (void)cpu;
#endif
}

// Work per second over all threads. make() builds a thread's state; calling it does one pass and returns its work.
template <class Make>
double rate(const int* cpus, int threads, double seconds, Make make) {
  std::vector<double> rates(threads * kTrials);
  std::atomic<int> arrived{0};
  auto body = [&](int t) {
    pin(cpus[t]);
    auto pass = make();
    pass();
    for (int trial = 0; trial < kTrials; ++trial) {
      ++arrived;
      while (arrived.load() < threads * (trial + 1)) std::this_thread::yield();
      const double start = now();
      double work = 0, elapsed = 0;
      while (elapsed < seconds) {
        work += pass();
        elapsed = now() - start;
      }
      rates[trial * threads + t] = work / elapsed;
    }
  };
  std::vector<std::thread> team;
  for (int t = 0; t < threads; ++t) team.emplace_back(body, t);
  for (auto& thread : team) thread.join();
  double best = 0;
  for (int trial = 0; trial < kTrials; ++trial) {
    const auto first = rates.begin() + trial * threads;
    best = std::max(best, std::accumulate(first, first + threads, 0.0));
  }
  return best;
}

// A buffer aligned to the vector, filled once by the thread that will read it.
template <class V>
struct Buffer {
  std::vector<unsigned char> raw;
  V* data;
  explicit Buffer(std::size_t bytes) : raw(bytes + kBytes) {
    const auto address = reinterpret_cast<std::uintptr_t>(raw.data());
    data = reinterpret_cast<V*>((address + kBytes - 1) / kBytes * kBytes);
  }
};

// FLOPs of kChains independent chains x = x * m + c.
template <class V, class Lane>
double multiply_add(const int* cpus, int threads, double seconds) {
  return rate(cpus, threads, seconds, [] {
    return [] {
      constexpr int kSteps = 4096, kLanes = kBytes / sizeof(Lane);
      V chain[kChains], m, c;
      for (int l = 0; l < kLanes; ++l) m[l] = Lane(0.5), c[l] = Lane(0.25);
      for (auto& x : chain) x = c;
      keep(m), keep(c), keep(chain);
      const V m0 = m, c0 = c;
      for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 16
        for (int j = 0; j < kChains; ++j) chain[j] = chain[j] * m0 + c0;
      keep(chain);
      return 2.0 * kSteps * kChains * kLanes;
    };
  });
}

// 2^x of a vector: round to nearest, degree 5 polynomial on [-0.5, 0.5], exponent by integer addition.
Floats exp2_of(Floats x) {
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23
  const Floats shifted = x + kRound, f = x - (shifted - kRound);
  Floats p = f * 1.3333558e-3f + 9.6181291e-3f;
  p = p * f + 5.5504109e-2f;
  p = p * f + 2.4022651e-1f;
  p = p * f + 6.9314718e-1f;
  p = p * f + 1.0f;
  Ints bits, exponent;
  std::memcpy(&bits, &p, sizeof p);
  std::memcpy(&exponent, &shifted, sizeof shifted);
  bits += exponent << 23;
  bits = x < -126.0f ? Ints{} : bits;
  Floats result;
  std::memcpy(&result, &bits, sizeof bits);
  return result;
}

// Reads `count` vectors (a multiple of 8); the result only makes the loads count.
Words all_of(const Words* data, std::size_t count) {
  Words sum[8] = {};
  for (std::size_t i = 0; i < count; i += 8)
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) sum[j] |= data[i + j];
  Words all = {};
  for (const Words& part : sum) all |= part;
  return all;
}

}  // namespace

extern "C" {

// Bytes per second read from a working set of `bytes` per thread.
double probe_read(std::size_t bytes, const int* cpus, int threads, double seconds) {
  return rate(cpus, threads, seconds, [bytes] {
    return [buffer = Buffer<Words>(bytes), count = bytes / kBytes / 8 * 8] {
      const std::size_t repeats = std::max<std::size_t>(1, (std::size_t(1) << 20) / (count * kBytes));
      for (std::size_t r = 0; r < repeats; ++r) {
        Words seen = all_of(buffer.data, count);
        keep(seen);
      }
      return double(repeats) * count * kBytes;
    };
  });
}

// Dependent loads per second in a random cycle through the lines of a working set of `bytes`.
double probe_chase(std::size_t bytes, int line, const int* cpus, double seconds) {
  return rate(cpus, 1, seconds, [bytes, line] {
    const std::size_t lines = std::max<std::size_t>(2, bytes / line);
    std::vector<std::uint32_t> order(lines);
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin() + 1, order.end(), std::minstd_rand(1));
    std::vector<unsigned char> memory(lines * line);
    for (std::size_t i = 0; i < lines; ++i) {
      const std::uint32_t next = order[(i + 1) % lines];
      std::memcpy(&memory[std::size_t(order[i]) * line], &next, sizeof next);
    }
    return [memory = std::move(memory), line, at = std::uint32_t(0)]() mutable {
      constexpr int kSteps = 20000;
      for (int step = 0; step < kSteps; ++step) std::memcpy(&at, &memory[std::size_t(at) * line], sizeof at);
      keep(at);
      return double(kSteps);
    };
  });
}

double probe_fma_f32(const int* cpus, int threads, double seconds) {
  return multiply_add<Floats, float>(cpus, threads, seconds);
}

double probe_fma_f64(const int* cpus, int threads, double seconds) {
  return multiply_add<Doubles, double>(cpus, threads, seconds);
}

// 0 without f16 vector arithmetic.
double probe_fma_f16(const int* cpus, int threads, double seconds) {
#if defined(__AVX512FP16__) || defined(__ARM_FEATURE_FP16_VECTOR_ARITHMETIC)
  typedef Half Halves __attribute__((vector_size(kBytes)));
  return multiply_add<Halves, Half>(cpus, threads, seconds);
#else
  (void)cpus, (void)threads, (void)seconds;
  return 0;
#endif
}

// FLOPs of bf16 pair dot products accumulated in f32; 0 without the instruction.
double probe_dot_bf16(const int* cpus, int threads, double seconds) {
#if defined(__AVX512BF16__)
  using Pairs = __m512bh;
  const auto dot = [](Floats sum, Pairs a, Pairs b) { return (Floats)_mm512_dpbf16_ps((__m512)sum, a, b); };
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  using Pairs = bfloat16x8_t;
  const auto dot = [](Floats sum, Pairs a, Pairs b) { return (Floats)vbfdotq_f32((float32x4_t)sum, a, b); };
#endif
#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  return rate(cpus, threads, seconds, [dot] {
    return [dot] {
      constexpr int kSteps = 4096;
      Floats chain[kChains] = {};
      Pairs a, b;
      std::memset(&a, 0, sizeof a), std::memset(&b, 0, sizeof b);
      keep(a), keep(b), keep(chain);
      const Pairs a0 = a, b0 = b;
      for (int step = 0; step < kSteps; ++step)
#pragma GCC unroll 16
        for (int j = 0; j < kChains; ++j) chain[j] = dot(chain[j], a0, b0);
      keep(chain);
      return 2.0 * kSteps * kChains * (kBytes / 2);
    };
  });
#else
  (void)cpus, (void)threads, (void)seconds;
  return 0;
#endif
}

// Exponentials per second over a working set of 4096 floats, load and store included.
double probe_exp2(const int* cpus, int threads, double seconds) {
  return rate(cpus, threads, seconds, [] {
    return [buffer = Buffer<Floats>(4096 * sizeof(float))]() mutable {
      constexpr int kVectors = 4096 * sizeof(float) / kBytes, kRepeats = 8;
      for (int r = 0; r < kRepeats; ++r) {
        keep(buffer.data[0]);
#pragma GCC unroll 4
        for (int i = 0; i < kVectors; ++i) buffer.data[i] = exp2_of(buffer.data[i] - 1.0f);
      }
      return 4096.0 * kRepeats;
    };
  });
}

// Core clock in Hz: a chain of dependent register additions takes one clock each.
double probe_clock(const int* cpus, double seconds) {
  return rate(cpus, 1, seconds, [] {
    return [] {
      constexpr int kSteps = 20000;
      std::size_t x = 1, y = 3;
      asm volatile("" : "+r"(y));
      for (int step = 0; step < kSteps; step += 20)
#pragma GCC unroll 20
        for (int j = 0; j < 20; ++j) {
          x += y;
          asm volatile("" : "+r"(x));
        }
      return double(kSteps);
    };
  });
}

}  // extern "C"
