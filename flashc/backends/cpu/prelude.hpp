// What every emitted kernel builds on: vectors of W floats (GCC/Clang vector extensions), elementary functions,
// and the register block of a dot product. FLASHC_WIDTH is the vector width of the target in bits.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <algorithm>
#include <type_traits>
#include <sched.h>
#if defined(__AVX512F__) || defined(__F16C__)
#include <immintrin.h>
#endif

constexpr int W = FLASHC_WIDTH / 32;
typedef float vf __attribute__((vector_size(FLASHC_WIDTH / 8)));
typedef int32_t vi __attribute__((vector_size(FLASHC_WIDTH / 8)));
typedef uint32_t vu __attribute__((vector_size(FLASHC_WIDTH / 8)));
typedef float vf_any __attribute__((vector_size(FLASHC_WIDTH / 8), aligned(4), may_alias));
typedef uint32_t vu_any __attribute__((vector_size(FLASHC_WIDTH / 8), aligned(4), may_alias));
typedef uint16_t bf16;
#define INLINE static inline __attribute__((always_inline))
#define INLINE_LAMBDA __attribute__((always_inline))

constexpr float INF = __builtin_inff();

INLINE vf load(const float* p) { return *(const vf_any*)p; }
INLINE void store(float* p, vf x) { *(vf_any*)p = x; }
#if defined(__x86_64__)
#if FLASHC_WIDTH == 512
#define KEEP_IN_REGISTER(x) __asm__("" : "+v"(x))
#else
#define KEEP_IN_REGISTER(x) __asm__("" : "+x"(x))
#endif
#else
#define KEEP_IN_REGISTER(x)
#endif
INLINE vf splat(float x) { return x - vf{}; }
INLINE vi splat(int32_t x) { return x - vi{}; }
INLINE vi lanes() { vi r; for (int l = 0; l < W; ++l) r[l] = l; return r; }
INLINE long ceil_div(long a, long b) { return (a + b - 1) / b; }
INLINE long floor_div(long a, long b) { return a / b - (a % b != 0 && (a < 0) != (b < 0)); }
INLINE long floor_mod(long a, long b) { return a - floor_div(a, b) * b; }

INLINE vf as_float(vu x) { return (vf)x; }
INLINE vu as_bits(vf x) { return (vu)x; }
INLINE float as_float(uint32_t x) { float r; std::memcpy(&r, &x, 4); return r; }
INLINE uint32_t as_bits(float x) { uint32_t r; std::memcpy(&r, &x, 4); return r; }

#if defined(__ARM_FP16_FORMAT_IEEE)
typedef __fp16 f16;
#elif defined(__FLT16_MAX__)
typedef _Float16 f16;
#else  // g++ before 12: by integer arithmetic, rounding to nearest even
struct f16 {
  uint16_t bits;
  f16() = default;
  explicit f16(float x) {
    uint32_t u = as_bits(x), a = u & 0x7fffffffu, h;
    if (a >= 0x47800000u) h = a > 0x7f800000u ? 0x7e00 : 0x7c00;
    else if (a < 0x38800000u) h = as_bits(as_float(a) + 0.5f) - 0x3f000000u;  // subnormal: the addition rounds
    else h = (a - 0x38000000u + 0xfffu + (a >> 13 & 1)) >> 13;
    bits = (uint16_t)(u >> 16 & 0x8000u | h);
  }
  explicit operator float() const {
    uint32_t a = (bits & 0x7fffu) << 13, sign = (bits & 0x8000u) << 16;
    if (a >= 0x0f800000u) return as_float(a + 0x70000000u | sign);
    return as_float(as_bits(as_float(a) * 0x1p112f) | sign);
  }
};
#endif

// Element conversions. bf16 rounds to nearest even and keeps NaN.
INLINE float to_f32(float x) { return x; }
INLINE float to_f32(f16 x) { return (float)x; }
INLINE float to_f32(bf16 x) { return as_float((uint32_t)x << 16); }
INLINE float to_f32(bool x) { return x; }
template <class T> INLINE T from_f32(float x) {
  if constexpr (!std::is_same_v<T, bf16>) return (T)x;
  uint32_t u = as_bits(x);
  return (T)(x != x ? (u >> 16) | 0x40 : (u + 0x7fff + ((u >> 16) & 1)) >> 16);
}
INLINE vu round_bf16(vf x) {  // the rounded value in the upper half of each lane
  vu u = as_bits(x);
  vu r = u + 0x7fff + ((u >> 16) & 1);
  return (vu)(x != x ? (vi)(u | 0x400000) : (vi)r);
}
// Rows 2r and 2r+1 of a tile, one 32-bit word per lane: what a pairwise bf16 dot reads.
#if defined(__AVX512BF16__) && FLASHC_WIDTH == 512
INLINE void store_pair(uint32_t* p, vf even, vf odd) {  // the conversion takes subnormals as 0
  typedef uint16_t vh __attribute__((vector_size(64)));
  const vh zip = {0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
  *(vu_any*)p = (vu)_mm512_permutexvar_epi16((__m512i)zip, (__m512i)_mm512_cvtne2ps_pbh((__m512)odd, (__m512)even));
}
#else
INLINE void store_pair(uint32_t* p, vf even, vf odd) {
  *(vu_any*)p = (round_bf16(even) >> 16) | (round_bf16(odd) & 0xffff0000u);
}
#endif

// where / min / max on vectors and on uniform values alike. NaN in either argument of min or max survives.
INLINE vf pick(vi c, vf a, vf b) { return c ? a : b; }
INLINE vi pick(vi c, vi a, vi b) { return c ? a : b; }
INLINE float pick(bool c, float a, float b) { return c ? a : b; }
INLINE int32_t pick(bool c, int32_t a, int32_t b) { return c ? a : b; }
INLINE vf larger(vf a, vf b) { return b > a ? b : a; }  // one instruction each; NaN in b is passed over
INLINE vf smaller(vf a, vf b) { return b < a ? b : a; }
INLINE vf vmax(vf a, vf b) { return (a > b) | (a != a) ? a : b; }
INLINE vf vmin(vf a, vf b) { return (a < b) | (a != a) ? a : b; }
INLINE vi vmax(vi a, vi b) { return a > b ? a : b; }
INLINE vi vmin(vi a, vi b) { return a < b ? a : b; }
INLINE float vmax(float a, float b) { return a > b || a != a ? a : b; }
INLINE float vmin(float a, float b) { return a < b || a != a ? a : b; }
INLINE int32_t vmax(int32_t a, int32_t b) { return a > b ? a : b; }
INLINE int32_t vmin(int32_t a, int32_t b) { return a < b ? a : b; }
INLINE vf vabs(vf x) { return (vf)((vi)x & 0x7fffffff); }
INLINE vi vabs(vi x) { return x < 0 ? -x : x; }
INLINE float vabs(float x) { return __builtin_fabsf(x); }
INLINE int32_t vabs(int32_t x) { return x < 0 ? -x : x; }
// Division rounds down. By 0 it gives 0, as in numpy; the quotient by -1 wraps, where the processor would trap.
INLINE vi vfloordiv(vi a, vi b) {
  vi q = a / ((b == 0) | (b == -1) ? splat(1) : b);
  q += (q * b != a) & ((a < 0) ^ (b < 0));
  q = b == -1 ? (vi)(-(vu)a) : q;
  return b == 0 ? vi{} : q;
}
INLINE int32_t vfloordiv(int32_t a, int32_t b) { return b == 0 ? 0 : (int32_t)floor_div(a, b); }
INLINE vi vmod(vi a, vi b) { return b == 0 ? vi{} : (vi)((vu)a - (vu)vfloordiv(a, b) * (vu)b); }
INLINE int32_t vmod(int32_t a, int32_t b) { return b == 0 ? 0 : (int32_t)floor_mod(a, b); }
INLINE vf vfloat(vi x) { return __builtin_convertvector(x, vf); }
INLINE float vfloat(int32_t x) { return (float)x; }
INLINE vi vint(vf x) { return __builtin_convertvector(x, vi); }
INLINE int32_t vint(float x) { return (int32_t)x; }

// 2^x: x = n + f with |f| <= 1/2, 2^f by the degree-5 minimax polynomial among those that are exactly 1 at 0
// (relative error 9.3e-8, fitted by iteratively reweighted least squares), n added to the exponent. 2^0 must be 1:
// an online softmax multiplies its state by it at every step that leaves the maximum where it was.
// Below -126 the result is 0 or, on AVX-512, subnormal; above 128 it is inf; NaN stays NaN, whatever its payload.
constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer in the low mantissa bits
INLINE vf exp2_fraction(vf f) {
  vf p = splat(1.326951897e-3f);
  p = p * f + 9.671291336e-3f;
  p = p * f + 5.550710857e-2f;
  p = p * f + 2.402224690e-1f;
  p = p * f + 6.931470037e-1f;
  return p * f + 1.0f;
}
INLINE vf exp2_parts(vf n_magic, vf f, vf x) {
  vf r = as_float(as_bits(exp2_fraction(f)) + (as_bits(n_magic) << 23));
  r = x < -126.0f ? vf{} : r;
  return x < 128.0f ? r : x + INF;
}
#if defined(__AVX512F__) && FLASHC_WIDTH == 512
INLINE vf vexp2(vf x) {  // rounding and scaling in one instruction each; scalef(NaN, -inf) is 0 and scalef(NaN, inf) is inf
  __m512 n = _mm512_roundscale_ps((__m512)x, 0);
  return (vf)_mm512_scalef_ps((__m512)exp2_fraction(x - (vf)n), n);
}
#else
INLINE vf vexp2(vf x) {
  vf z = x + MAGIC, f = x - (z - MAGIC);
  return exp2_parts(z, f, x);
}
#endif
INLINE vf vexp(vf x) {  // reduced by n ln 2 in two parts (Cody and Waite): 2^(x log2 e) alone is off by |x| / 2 ulp
  vf y = x * 1.44269504f, z = y + MAGIC, n = z - MAGIC;
  vf f = ((x - n * 0.693359375f) + n * 2.12194440e-4f) * 1.44269504f;
  return exp2_parts(z, f, y);
}
// log2 x: x = 2^n m with m in [sqrt(1/2), sqrt 2), log2 m by an odd minimax polynomial in (m-1)/(m+1)
// (relative error 7e-10 before rounding).
INLINE vf vlog2(vf x) {
  vi tiny = x < 1.17549435e-38f;  // subnormal: scaled by 2^23
  vi u = (vi)(tiny ? x * 8388608.0f : x);
  vi n = (u - 0x3f3504f3) >> 23;
  vf m = (vf)(u - (n << 23));
  vf t = (m - 1.0f) / (m + 1.0f), t2 = t * t;
  vf p = splat(4.317356037e-1f);
  p = p * t2 + 5.767143985e-1f;
  p = p * t2 + 9.617988474e-1f;
  p = p * t2 + 2.885390080f;
  vf r = vfloat(n + (tiny & -23)) + p * t;
  r = x == 0.0f ? splat(-INF) : r;
  r = x == INF ? splat(INF) : r;
  return (x < 0.0f) | (x != x) ? splat(__builtin_nanf("")) : r;
}
INLINE vf vlog(vf x) { return vlog2(x) * 0.69314718f; }
// tanh x = (2^y - 1) / (2^y + 1), y = 2 x log2 e. 2^y - 1 is 2^n p + (2^n - 1), with p = 2^f - 1 as f times a degree-5
// minimax polynomial (relative error 1.1e-8): near 0, n is 0 and nothing cancels.
INLINE vf vtanh(vf x) {
  vf most = splat(20.0f), least = splat(-20.0f);
  KEEP_IN_REGISTER(most);  // or GCC compares with a constant and blends
  KEEP_IN_REGISTER(least);
  vf y = smaller(larger(x, least), most);
  vf z = y * 2.88539008f + MAGIC, f = y * 2.88539008f - (z - MAGIC);
  vf q = splat(1.540351197e-4f);
  q = q * f + 1.339073559e-3f;
  q = q * f + 9.618237497e-3f;
  q = q * f + 5.550357434e-2f;
  q = q * f + 2.402264979e-1f;
  q = q * f + 6.931471879e-1f;
  vf scale = as_float((as_bits(z) << 23) + 0x3f800000u);
  vf less = f * q * scale - (1.0f - scale);  // keeps the sign of 0
  return less / (less + 2.0f);
}
#define SCALAR_OF(f) INLINE float f(float x) { return f(splat(x))[0]; }
SCALAR_OF(vexp2) SCALAR_OF(vlog2) SCALAR_OF(vexp) SCALAR_OF(vlog) SCALAR_OF(vtanh)

// ---- moves that transpose: dst[x + y * dst_y] = src[x * src_x + y], W x W elements at a time in registers ----
typedef uint16_t vh __attribute__((vector_size(FLASHC_WIDTH / 16)));
typedef uint16_t vh_any __attribute__((vector_size(FLASHC_WIDTH / 16), aligned(2), may_alias));
INLINE vf load_vector(const float* p) { return load(p); }
INLINE vf load_vector(const bf16* p) { return as_float(__builtin_convertvector(*(const vh_any*)p, vu) << 16); }
#if defined(__AVX512F__) && FLASHC_WIDTH == 512
INLINE vf load_vector(const f16* p) { return (vf)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
INLINE void store_vector(f16* p, vf x) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph((__m512)x, _MM_FROUND_TO_NEAREST_INT)); }
#elif defined(__F16C__) && FLASHC_WIDTH == 256
INLINE vf load_vector(const f16* p) { return (vf)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
INLINE void store_vector(f16* p, vf x) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph((__m256)x, _MM_FROUND_TO_NEAREST_INT)); }
#else
INLINE vf load_vector(const f16* p) { vf r; for (int l = 0; l < W; ++l) r[l] = to_f32(p[l]); return r; }
INLINE void store_vector(f16* p, vf x) { for (int l = 0; l < W; ++l) p[l] = from_f32<f16>(x[l]); }
#endif
INLINE void store_vector(float* p, vf x) { store(p, x); }
INLINE void store_vector(bf16* p, vf x) { *(vh_any*)p = __builtin_convertvector(round_bf16(x) >> 16, vh); }
INLINE float load_one(const float* p) { return *p; }
template <class T> INLINE float load_one(const T* p) { return to_f32(*p); }
INLINE void store_one(float* p, float x) { *p = x; }
template <class T> INLINE void store_one(T* p, float x) { *p = from_f32<T>(x); }

struct Pairs {  // neighbours of a row of bf16 as one 32-bit word each; src_x counts single elements
  typedef float word __attribute__((aligned(2), may_alias));
  typedef float words __attribute__((vector_size(FLASHC_WIDTH / 8), aligned(2), may_alias));
  const bf16* p;
};
INLINE vf load_vector(Pairs s) { return *(const Pairs::words*)s.p; }
INLINE float load_one(Pairs s) { return *(const Pairs::word*)s.p; }
template <class T> INLINE const T* at(const T* src, long row, long y) { return src + row + y; }
INLINE Pairs at(Pairs src, long row, long y) { return {src.p + row + 2 * y}; }

template <int... L> struct Lanes {};
template <int N, int... L> struct LanesTo : LanesTo<N - 1, N - 1, L...> {};
template <int... L> struct LanesTo<0, L...> { typedef Lanes<L...> all; };
template <int... L> INLINE vf zip_low(vf a, vf b, Lanes<L...>) {
  return __builtin_shuffle(a, b, vi{(L / 2 + L % 2 * W)...});
}
template <int... L> INLINE vf zip_high(vf a, vf b, Lanes<L...>) {
  return __builtin_shuffle(a, b, vi{(W / 2 + L / 2 + L % 2 * W)...});
}
INLINE void transpose_block(vf (&r)[W]) {  // zipping row n with row n + W/2, log2 W times over, transposes
  typename LanesTo<W>::all lane;
#pragma GCC unroll 4
  for (int step = 1; step < W; step *= 2) {
    vf z[W];
#pragma GCC unroll 8
    for (int n = 0; n < W / 2; ++n) {
      z[2 * n] = zip_low(r[n], r[n + W / 2], lane);
      z[2 * n + 1] = zip_high(r[n], r[n + W / 2], lane);
    }
#pragma GCC unroll 16
    for (int n = 0; n < W; ++n) r[n] = z[n];
  }
}
template <class To, class From>
static __attribute__((noinline)) void transpose(To* dst, long dst_y, From src, long src_x, long nx, long ny) {
  for (long x = 0; x < nx; x += W)
    for (long y = 0; y < ny; y += W) {
      if (x + W <= nx && y + W <= ny) {
        vf r[W];
#pragma GCC unroll 16
        for (int n = 0; n < W; ++n) r[n] = load_vector(at(src, (x + n) * src_x, y));
        transpose_block(r);
#pragma GCC unroll 16
        for (int n = 0; n < W; ++n) store_vector(dst + x + (y + n) * dst_y, r[n]);
        continue;
      }
      for (long i = x; i < std::min(x + W, nx); ++i)
        for (long j = y; j < std::min(y + W, ny); ++j) store_one(dst + i + j * dst_y, load_one(at(src, i * src_x, j)));
    }
}

// ---- sweeps: rows in groups of UNROLL, so that a reduction has as many partial results and never waits for itself ----
constexpr int UNROLL = 4;
template <class Row>
INLINE void for_rows(long count, Row row) {
  long n = 0;
  for (; n + UNROLL <= count; n += UNROLL)
#pragma GCC unroll 4
    for (int u = 0; u < UNROLL; ++u) row(n + u, u);
  for (; n < count; ++n) row(n, 0);
}
INLINE vf add(vf a, vf b) { return a + b; }
template <class Combine>
INLINE float fold_lanes(vf x, Combine combine) {
#pragma GCC unroll 4
  for (int half = W / 2; half > 0; half /= 2) x = combine(x, __builtin_shuffle(x, lanes() ^ half));
  return x[0];
}
template <class Combine>
INLINE vf combined(const vf (&part)[UNROLL], Combine combine) {
  return combine(combine(part[0], part[1]), combine(part[2], part[3]));
}

// ---- atoms: one register block of a dot, MR vectors of the lane axis x NR broadcast rows ----
// acc[n][m] += sum over k of a[k][m-th vector] * b[n][k].  a_k: elements between consecutive k of a.

// The cache line of p[row + x] on its way to the second cache (to the first, fetching ahead was slower than not at all on
// Zen 4), where x starts one: vectors of less than a line come in turn.
template <class T> INLINE void fetch_line(const T* p, long row, int x) {
  if (x * sizeof(T) % 64 == 0) __builtin_prefetch(p + row + x, 0, 2);
}
template <class T> INLINE void fetch_soon(const T* p, long row, int x) {  // to the first cache: read within a microsecond
  if (x * sizeof(T) % 64 == 0) __builtin_prefetch(p + row + x, 0, 3);
}

struct fma_f32 {
  static constexpr int depth = 1;
  template <int MR, int NR>
  INLINE void block(vf (&acc)[NR][MR], const float* a, long a_k, const float* b, long b_n, long b_k, long count) {
    block<MR, NR, 0>(acc, a, a_k, b, b_n, b_k, count);
  }
  template <int MR, int NR, int AHEAD, class A>  // AHEAD: how many steps ahead a's rows are fetched into the cache
  INLINE void block(vf (&acc)[NR][MR], const A* a, long a_k, const float* b, long b_n, long b_k, long count) {
    for (long k = 0; k < count; ++k) {
      vf v[MR];
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) {
        if (AHEAD > 0) fetch_line(a, (k + AHEAD) * a_k, m * W);
        v[m] = load_vector(a + k * a_k + m * W);
        if (NR <= 4 && MR >= 2) KEEP_IN_REGISTER(v[m]);  // or GCC folds the load into every FMA and becomes load bound
      }
#pragma GCC unroll 32
      for (int n = 0; n < NR; ++n)
#pragma GCC unroll 8
        for (int m = 0; m < MR; ++m) acc[n][m] += v[m] * b[n * b_n + k * b_k];
    }
  }
};

// The same for long sums, PART terms at a time: what rounding adds to a sum grows with the root of the number of terms that
// are added up one after another. Not inlined, or GCC keeps the vectors of fma_f32 in memory.
template <long PART> struct fma_f32_parts {
  static constexpr int depth = 1;
  template <int MR, int NR>
  INLINE void block(vf (&acc)[NR][MR], const float* a, long a_k, const float* b, long b_n, long b_k, long count) {
    for (long k = 0; k < count; k += PART)
      part<MR, NR>(acc, a + k * a_k, a_k, b + k * b_k, b_n, b_k, std::min(PART, count - k));
  }
  template <int MR, int NR>
  static __attribute__((noinline)) void part(
      vf (&acc)[NR][MR], const float* a, long a_k, const float* b, long b_n, long b_k, long count) {
    vf sum[NR][MR] = {};
    fma_f32::block<MR, NR>(sum, a, a_k, b, b_n, b_k, count);
#pragma GCC unroll 32
    for (int n = 0; n < NR; ++n)
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) acc[n][m] += sum[n][m];
  }
};

#if defined(__AVX512BF16__) && FLASHC_WIDTH == 512
// Pairs along k: a holds 32-bit words (k, k+1) per lane, b is read as such words.
struct dot_bf16 {
  static constexpr int depth = 2;
  template <int MR, int NR>
  INLINE void block(vf (&acc)[NR][MR], const bf16* a, long a_k, const bf16* b, long b_n, long b_k, long count) {
    for (long k = 0; k < count / 2; ++k) {
      vu v[MR];
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) {
        v[m] = *(const vu_any*)(a + k * a_k + 2 * m * W);
        KEEP_IN_REGISTER(v[m]);
      }
#pragma GCC unroll 32
      for (int n = 0; n < NR; ++n) {
        uint32_t w;
        std::memcpy(&w, b + n * b_n + k * b_k, 4);
        step<MR>(acc[n], v, w);
      }
    }
    if (count % 2) tail<MR, NR>(acc, a + count / 2 * a_k, b + count / 2 * b_k, b_n);
  }
  template <int MR>
  INLINE void step(vf (&acc)[MR], const vu* v, uint32_t w) {
#pragma GCC unroll 8
    for (int m = 0; m < MR; ++m)
      acc[m] = (vf)_mm512_dpbf16_ps((__m512)acc[m], (__m512bh)v[m], (__m512bh)_mm512_set1_epi32((int)w));
  }
  template <int MR, int NR>
  INLINE void tail(vf (&acc)[NR][MR], const bf16* a, const bf16* b, long b_n) {
    vu v[MR];
    for (int m = 0; m < MR; ++m) v[m] = *(const vu_any*)(a + 2 * m * W) & 0xffffu;
    for (int n = 0; n < NR; ++n) step<MR>(acc[n], v, b[n * b_n]);
  }
};
#endif

typedef fma_f32 stream_f32;  // a is read where it lies, in its own type
#if defined(__AVX512BF16__) && FLASHC_WIDTH == 512
// As dot_bf16, but a's rows lie in memory one after the other: two of them are zipped into pairs on the way.
struct stream_bf16 {
  static constexpr int depth = 1;
  typedef uint16_t vh32 __attribute__((vector_size(64)));
  typedef uint16_t vh32_any __attribute__((vector_size(64), aligned(2), may_alias));
  template <int... L> INLINE vu zipped(vh32 even, vh32 odd, int first, Lanes<L...>) {
    return first == 0 ? (vu)__builtin_shuffle(even, odd, vh32{(L / 2 + L % 2 * 32)...})
                      : (vu)__builtin_shuffle(even, odd, vh32{(16 + L / 2 + L % 2 * 32)...});
  }
  INLINE vu widened(const bf16* p) { return __builtin_convertvector(*(const vh_any*)p, vu); }
  template <int MR, int NR, int AHEAD>
  INLINE void block(vf (&acc)[NR][MR], const bf16* a, long a_k, const bf16* b, long b_n, long b_k, long count) {
    for (long k = 0; k < count / 2; ++k) {
      const bf16 *even = a + 2 * k * a_k, *odd = even + a_k;
      vu v[MR];
#pragma GCC unroll 8
      for (int m = 0; m + 1 < MR; m += 2) {
        if (AHEAD > 0) fetch_line(even, AHEAD * a_k, m * W), fetch_line(odd, AHEAD * a_k, m * W);
        const vh32 x = *(const vh32_any*)(even + m * W), y = *(const vh32_any*)(odd + m * W);
        v[m] = zipped(x, y, 0, typename LanesTo<32>::all{}), v[m + 1] = zipped(x, y, 16, typename LanesTo<32>::all{});
      }
      if (MR % 2) v[MR - 1] = widened(even + (MR - 1) * W) | widened(odd + (MR - 1) * W) << 16;
#pragma GCC unroll 32
      for (int n = 0; n < NR; ++n) {
        uint32_t w;
        std::memcpy(&w, b + n * b_n + k * b_k, 4);
        dot_bf16::step<MR>(acc[n], v, w);
      }
    }
    if (count % 2 == 0) return;
    vu v[MR];
    for (int m = 0; m < MR; ++m) v[m] = widened(a + (count - 1) * a_k + m * W);
    for (int n = 0; n < NR; ++n) dot_bf16::step<MR>(acc[n], v, b[n * b_n + count / 2 * b_k]);
  }
};
#endif

// A `done` that reads memory, and what fetches this for one vector while the products of its block are summed: row by row,
// as every row may be in a page of its own, and a core waits for the second of two pages that it does not know.
template <class Done, class Fetch> struct Fetching : Done {
  Fetch fetch;
};
template <class Done, class Fetch> INLINE Fetching<Done, Fetch> fetching(Done done, Fetch fetch) { return {done, fetch}; }
template <class Atom, int MR, int NR, class A, class B, class Done>
INLINE void products(vf (&acc)[NR][MR], const A* a, long a_k, const B* b, long b_n, long b_k, long count, const Done&, long, int) {
  Atom::template block<MR, NR>(acc, a, a_k, b, b_n, b_k, count);
}
template <class Atom, int MR, int NR, class A, class B, class Done, class Fetch>
INLINE void products(vf (&acc)[NR][MR], const A* a, long a_k, const B* b, long b_n, long b_k, long count, const Fetching<Done, Fetch>& done, long n, int m) {
  const long steps = count / Atom::depth / NR;
#pragma GCC unroll 1
  for (int r = 0; r < NR; ++r, a += steps * a_k, b += steps * b_k) {
#pragma GCC unroll 8
    for (int v = 0; v < MR; ++v) done.fetch(n + r, m + v);
    const long rest = count - r * steps * Atom::depth;
    Atom::template block<MR, NR>(acc, a, a_k, b, b_n, b_k, r + 1 < NR ? steps * Atom::depth : rest);
  }
}

// A tile of the output: panels of MR vectors x rows, in blocks of NR and then halves of it for the rest.
// `done(n, m, value)` receives each finished vector: row n, m-th vector of the tile.
template <class Atom, int MR, int NR, class A, class B, class Done>
INLINE void rows(const A* a, long a_k, const B* b, long b_n, long b_k, long count, long n, long rows_n, int m0, Done done) {
  for (; n + NR <= rows_n; n += NR) {
    vf acc[NR][MR] = {};
    products<Atom, MR, NR>(acc, a, a_k, b + n * b_n, b_n, b_k, count, done, n, m0);
#pragma GCC unroll 32
    for (int r = 0; r < NR; ++r)
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) done(n + r, m0 + m, acc[r][m]);
  }
  if constexpr (NR > 1)
    if (n < rows_n) rows<Atom, MR, NR / 2>(a, a_k, b, b_n, b_k, count, n, rows_n, m0, done);
}
// `panel`: elements from one panel of a to the next.
template <class Atom, int MR, int NR, class A, class B, class Done>
static __attribute__((noinline)) void dot_tile(const A* a, long a_k, const B* b, long b_n, long b_k, long count, long rows_n, int vectors, Done done, long panel = MR * W * Atom::depth) {
  int m = 0;
  for (; m + MR <= vectors; m += MR, a += panel) rows<Atom, MR, NR>(a, a_k, b, b_n, b_k, count, 0, rows_n, m, done);
  if constexpr (MR > 1)
    for (; m < vectors; ++m, a += W * Atom::depth) rows<Atom, 1, 8>(a, a_k, b, b_n, b_k, count, 0, rows_n, m, done);
}

// The same with a's rows in memory, few rows of b, and a's next rows on their way: rows of b in blocks of NR at a time.
template <class Atom, int MR, int NR, int AHEAD, class A, class B, class Done>
INLINE void stream_rows(const A* a, long a_k, const B* b, long b_n, long b_k, long count, int n, int rows_n, int m0, Done done) {
  for (; n + NR <= rows_n; n += NR) {
    vf acc[NR][MR] = {};
    Atom::template block<MR, NR, AHEAD>(acc, a, a_k, b + n * b_n, b_n, b_k, count);
#pragma GCC unroll 32
    for (int r = 0; r < NR; ++r)
#pragma GCC unroll 8
      for (int m = 0; m < MR; ++m) done(n + r, m0 + m, acc[r][m]);
  }
  if constexpr (NR > 1)
    if (n < rows_n) stream_rows<Atom, MR, NR / 2, AHEAD>(a, a_k, b, b_n, b_k, count, n, rows_n, m0, done);
}
template <class Atom, int MR, int NR, int AHEAD, class A, class B, class Done>
static __attribute__((noinline)) void dot_stream(const A* a, long a_k, const B* b, long b_n, long b_k, long count, int rows_n, int vectors, Done done) {
  for (int m = 0; m < vectors; m += MR)
    stream_rows<Atom, MR, NR, AHEAD>(a + m * W, a_k, b, b_n, b_k, count, 0, rows_n, m, done);
}

// ---- dots across the lanes: out[n][m] = sum over k of b[n][k] * a[m][k], both contiguous along k ----
template <int N> INLINE vf lane_sums(const vf* x) {  // lane l: the sum over the lanes of x[l % N]; N: a power of 2, at most W
  typename LanesTo<W>::all lane;
  vf r[N];
#pragma GCC unroll 16
  for (int n = 0; n < N; ++n) r[n] = x[n];
#pragma GCC unroll 4
  for (int half = N / 2; half > 0; half /= 2)
#pragma GCC unroll 8
    for (int n = 0; n < half; ++n) r[n] = zip_low(r[n], r[n + half], lane) + zip_high(r[n], r[n + half], lane);
#pragma GCC unroll 4
  for (int half = W / 2; half >= N; half /= 2) {
    vi other = lanes() ^ half;
    r[0] += __builtin_shuffle(r[0], other);
  }
  return r[0];
}
template <int N> INLINE void store_sums(float* out, const vf* x) {  // out[n] = the sum over the lanes of x[n]
  if constexpr (N >= W) {
    store(out, lane_sums<W>(x));
    if constexpr (N > W) store_sums<N - W>(out + W, x + W);
  } else {
    constexpr int P = N >= 8 ? 8 : N >= 4 ? 4 : N >= 2 ? 2 : 1;
    const vf sums = lane_sums<P>(x);
    std::memcpy(out, &sums, P * sizeof(float));
    if constexpr (N > P) store_sums<N - P>(out + P, x + P);
  }
}
struct across_f32 {
  static constexpr int elements = W;
  typedef vf vector;
  template <class T> INLINE vf read(const T* p) { return load_vector(p); }
  INLINE vf step(vf acc, vf a, vf b) { return acc + a * b; }
};
#if defined(__AVX512BF16__) && FLASHC_WIDTH == 512
struct across_bf16 {
  static constexpr int elements = 2 * W;
  typedef vu vector;
  INLINE vu read(const bf16* p) { vu r; std::memcpy(&r, p, sizeof r); return r; }
  INLINE vf step(vf acc, vu a, vu b) { return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b); }
};
#endif
template <class Atom, class T> INLINE typename Atom::vector read_first(const T* p, long n) {  // n elements, then zeros
  T part[Atom::elements] = {};
  std::memcpy(part, p, n * sizeof(T));
  return Atom::read(part);
}
template <class Atom, int MR, int NR, int AHEAD, class A, class B>
INLINE void across_block(float* out, long out_n, const A* a, long a_m, const B* b, long b_n, long count) {
  vf acc[NR * MR] = {};
  const auto step = [&](auto read, long k) INLINE_LAMBDA {
    typename Atom::vector v[MR];
#pragma GCC unroll 16
    for (int m = 0; m < MR; ++m) v[m] = read(a + m * a_m + k);
#pragma GCC unroll 16
    for (int n = 0; n < NR; ++n) {
      const typename Atom::vector u = read(b + n * b_n + k);
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) acc[n * MR + m] = Atom::step(acc[n * MR + m], v[m], u);
    }
  };
  long k = 0;
  for (; k + Atom::elements <= count; k += Atom::elements) {
    if (AHEAD > 0)
#pragma GCC unroll 16
      for (int m = 0; m < MR; ++m) fetch_line(a, (m + AHEAD) * a_m, k);
    step([](auto* p) INLINE_LAMBDA { return Atom::read(p); }, k);
  }
  if (k < count) step([&](auto* p) INLINE_LAMBDA { return read_first<Atom>(p, count - k); }, k);
  float sums[NR * MR];
  store_sums<NR * MR>(sums, acc);
#pragma GCC unroll 16
  for (int n = 0; n < NR; ++n) std::memcpy(out + n * out_n, sums + n * MR, MR * sizeof(float));
}
template <class Atom, int MR, int NR, int AHEAD, class A, class B>
INLINE void across_rows(float* out, long out_n, const A* a, long a_m, const B* b, long b_n, int rows_n, long count) {
  int n = 0;
  for (; n + NR <= rows_n; n += NR)
    across_block<Atom, MR, NR, AHEAD>(out + n * out_n, out_n, a, a_m, b + n * b_n, b_n, count);
  if constexpr (NR > 1)
    if (n < rows_n)
      across_rows<Atom, MR, NR / 2, AHEAD>(out + n * out_n, out_n, a, a_m, b + n * b_n, b_n, rows_n - n, count);
}
template <class Atom, int MR, int NR, int AHEAD, class A, class B>
static __attribute__((noinline)) void dot_across(float* out, long out_n, const A* a, long a_m, long stream, const B* b, long b_n, int rows_n, long count) {
  long m = 0;
  for (; m + MR <= stream; m += MR) across_rows<Atom, MR, NR, AHEAD>(out + m, out_n, a + m * a_m, a_m, b, b_n, rows_n, count);
  for (; m < stream; ++m) across_rows<Atom, 1, NR, 0>(out + m, out_n, a + m * a_m, a_m, b, b_n, rows_n, count);
}

// The careful form for a predicated tile whose b holds inf or NaN: a weight of exactly 0 contributes nothing.
INLINE float element(const float* a, long k, long a_k, long lane) { return a[k * a_k + lane]; }
INLINE float element(const bf16* a, long k, long a_k, long lane) { return to_f32(a[(k / 2) * a_k + 2 * lane + k % 2]); }
INLINE float term(const float* b, long n, long b_n, long k, long b_k) { return b[n * b_n + k * b_k]; }
INLINE float term(const bf16* b, long n, long b_n, long k, long b_k) { return to_f32(b[n * b_n + (k / 2) * b_k + k % 2]); }
template <class A>
static bool all_finite_rows(const A* a, long a_k, long count, long width) {
  vi worst = {};
  for (long k = 0; k < count; ++k) {
    long x = 0;
    for (; x + W <= width; x += W) worst = vmax(worst, (vi)load_vector(a + k * a_k + x) & 0x7fffffff);
    for (; x < width; ++x) worst[0] = std::max(worst[0], (int32_t)(as_bits(to_f32(a[k * a_k + x])) & 0x7fffffffu));
  }
  int32_t most = 0;
  for (int l = 0; l < W; ++l) most = std::max(most, worst[l]);
  return most < 0x7f800000;
}
template <class B>
static bool all_finite(const B* b, long b_n, long b_k, long count, long rows_n) {
  uint32_t worst = 0;
  for (long k = 0; k < count; ++k)
    for (long n = 0; n < rows_n; ++n) worst = std::max(worst, as_bits(term(b, n, b_n, k, b_k)) & 0x7fffffffu);
  return worst < 0x7f800000u;
}
inline bool all_finite(const float* b, long b_n, long b_k, long count, long rows_n) {
  return b_n == 1 ? all_finite_rows(b, b_k, count, rows_n) : all_finite<float>(b, b_n, b_k, count, rows_n);
}
template <class A, class B, class Done>
static void dot_skipping(const A* a, long a_k, const B* b, long b_n, long b_k, long count, long rows_n, int vectors, Done done) {
  for (int m = 0; m < vectors; ++m)
    for (long n = 0; n < rows_n; ++n) {
      vf acc = {};
      for (long k = 0; k < count; ++k)
        for (int l = 0; l < W; ++l) {
          float weight = element(a, k, a_k, m * W + l);
          if (weight != 0.0f) acc[l] += weight * term(b, n, b_n, k, b_k);
        }
      done(n, m, acc);
    }
}

// The same for a dot whose weights are b, read in natural order, with a's rows in memory.
template <class A, class B, class Done>
static void stream_skipping(const A* a, long a_k, const B* b, long b_n, long count, int rows_n, int vectors, Done done) {
  for (int m = 0; m < vectors; ++m)
    for (int n = 0; n < rows_n; ++n) {
      vf acc = {};
      for (long k = 0; k < count; ++k)
        if (const float weight = to_f32(b[n * b_n + k]); weight != 0.0f) acc += weight * load_vector(a + k * a_k + m * W);
      done(n, m, acc);
    }
}

// ---- threads that take steps together: runtime.cpp has the same struct ----
INLINE void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}
struct Member {
  long index, crew;  // of how many threads this is which
  char *kept, *scratch;
  long* arrivals;  // of all members at all meetings so far
  long due;

  // The tasks of this member, the same at every call.
  template <class Task> INLINE_LAMBDA void each(long tasks, Task task) {
    for (long n = tasks * index / crew; n < tasks * (index + 1) / crew; ++n) task(n);
  }
  // Returns once every member has come as often; what each wrote before is then seen by all.
  void meet() {
    if (crew == 1) return;
    due += crew;
    if (__atomic_add_fetch(arrivals, 1, __ATOMIC_ACQ_REL) == due) return;
    for (int n = 0; __atomic_load_n(arrivals, __ATOMIC_ACQUIRE) < due; ++n) n < 2000 ? relax() : (void)sched_yield();
  }
};

// ---- the host's side of a call ----
struct Call {
  void* const* tensor;     // one pointer per tensor: known at each call, as `threads` is
  const long* stride;      // elements, all tensors and dimensions in order
  const long* size;        // the program's integer symbols
  const float* param;      // its float parameters
  void (*parallel)(long tasks, void (*task)(const Call*, long, char*), const Call*, long scratch_bytes, int threads);
  void (*together)(long tasks, void (*crew)(const Call*, Member), const Call*, long kept_bytes, long scratch_bytes, int threads);
  int threads;
};
// One block, of which each argument of its own would cost the caller in Python 0.1 us: what is fixed, threads, tensors.
INLINE Call called(void* const* given) {
  Call call = *(const Call*)given[0];
  call.threads = (int)(long)given[1], call.tensor = given + 2;
  return call;
}
