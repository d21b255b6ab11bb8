// Y[M,N] = X[M,K] W[N,K]^T for few tokens: weights in the format WEIGHTS stream through once, 16-bit activations stay.
//
//  * 16 weight rows are the m side of a tensor-core product and 8 tokens the n side: up to 8 tokens cost one product
//    per 16x16 weights, TOKENS * 8 tokens TOKENS of them.
//  * A warp owns 64 rows. A block of 64 rows x 64 inputs is contiguous, in the order in which lanes copy it; each lane
//    reads back from shared memory only what it copied, so shared memory is a latency buffer free of bank conflicts.
//  * Lane t of four takes inputs 16 s + 4 t + (0..3) in step s, for weights and activations alike: its activations are
//    one aligned 8-byte load, no matrix load is needed, and all of a step has one scale.
//  * Scales multiply the fp32 sums of their group, not the weights: operands of the product are exact. With many
//    tokens they multiply the weights instead, as those sums would not fit the registers. FP4 has to be moved to the
//    exponents of bf16 by a product anyway: its scale is part of that factor, which costs nothing and is exact too.
//  * WARPS_N warps side by side share the activations, WARPS_K split the inputs inside the block, gridDim.y across
//    blocks; the last block to arrive adds the parts in a fixed order, so that results repeat exactly.
//  * gridDim.z: tiles of 8 * TOKENS tokens; GROUPED: segments of tokens that share an expert.
#include "prim.cuh"

#define W16 0
#define INT8 1
#define E4M3 2
#define INT4 3
#define INT4_ZERO 4
#define MXFP4 5
#define NVFP4 6
#define NF4 7

#define BF16 (ACTIVATIONS == 1)

constexpr int BITS = WEIGHTS == W16 ? 16 : WEIGHTS <= E4M3 ? 8 : 4;
constexpr int WORDS = BITS / 4;                  // 32-bit words of a lane in a 16x16 tile
constexpr int VECTORS = WORDS;                   // 16-byte vectors of a lane per 16 rows x 64 inputs
constexpr int STEPS_PER_VECTOR = 4 / WORDS;
constexpr bool FP4 = WEIGHTS == MXFP4 || WEIGHTS == NVFP4;
constexpr bool GROUP_SCALES = BITS == 4;
constexpr bool SCALED_WEIGHTS = GROUP_SCALES && !FP4 && TOKENS > 4;
static_assert(!FP4 || BF16, "factors of FP4 need the exponents of bf16");
constexpr int CHUNKS_PER_GROUP = WEIGHTS == INT4 || WEIGHTS == INT4_ZERO ? 2 : 1;
constexpr int SCALE_BYTES = !GROUP_SCALES ? 0 : WEIGHTS == NVFP4 || WEIGHTS == NF4 ? 4 : 2;  // of one row in 64 inputs
constexpr int ZERO_BYTES = WEIGHTS == INT4_ZERO ? 32 : 0;                   // of 64 rows
constexpr int PAD = 32;                          // bytes that keep the lanes of an 8-byte load in distinct banks

constexpr int WARPS = WARPS_N * WARPS_K;
constexpr int ROWS = 64 * WARPS_N, INPUTS = 64 * WARPS_K, BATCH = 8 * TOKENS;
constexpr int BLOCK_BYTES = 2048 * WORDS;        // 64 x 64 weights
constexpr int X_PITCH = INPUTS * 2 + PAD;
constexpr int META_BYTES = 64 * SCALE_BYTES + ZERO_BYTES;
constexpr int X_AT = WARPS * (BLOCK_BYTES + META_BYTES);
constexpr int STAGE_BYTES = X_AT + BATCH * X_PITCH;
constexpr int RING_BYTES = STAGES * STAGE_BYTES, SUMS_BYTES = WARPS * 64 * BATCH * 4;
constexpr int FLAG_AT = RING_BYTES > SUMS_BYTES ? RING_BYTES : SUMS_BYTES;
static_assert(FLAG_AT + 16 == SHARED_BYTES, "the launcher allocates what the kernel uses");
static_assert(THREADS == 32 * WARPS, "one thread per lane");

DEVICE void product(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if BF16
  mma_bf16(d, a, b0, b1);
#else
  mma_f16(d, a, b0, b1);
#endif
}
DEVICE u32 fma2(u32 a, u32 b, u32 c) {
#if BF16
  return fma_bf16x2(a, b, c);
#else
  return fma_f16x2(a, b, c);
#endif
}
DEVICE float widen(u32 h) { return BF16 ? from_bf16((u16)h) : from_f16((u16)h); }
DEVICE u16 narrow(float f) {
#if BF16
  return to_bf16(f);
#else
  return to_f16(f);
#endif
}
DEVICE u32 twice(u32 h) { return (h & 0xffffu) | h << 16; }

// Two values in the low nibbles (bits 0-3 and 16-19 after the shift) minus the zero point; exact.
// fp16: 0x6400 + v is 1024 + v; bf16: 0x4300 + v is 128 + v.
DEVICE u32 nibbles(u32 q, int shift, u32 zero) {
#if BF16
  return fma_bf16x2(lop3<0xea>(q >> shift, 0x000f000fu, 0x43004300u), 0x3f803f80u, twice(0xc300u | zero));
#else
  return shift & 4 ? fma_f16x2(lop3<0xea>(q >> (shift & 8), 0x00f000f0u, 0x64006400u), 0x2c002c00u,
                               twice(0xd400u | zero << 4))
                   : sub_f16x2(lop3<0xea>(q >> (shift & 8), 0x000f000fu, 0x64006400u), twice(0x6400u | zero));
#endif
}
// FP4 (sign, 2 exponent bits, 1 mantissa bit): register f of a word's four, as bf16 2^-126 times too small. Signs and
// magnitudes lie where a single shift and mask bring them to their place; the fourth code takes what is left.
DEVICE u32 fp4(u32 q, int f) {
  if (f == 3) return (q << 1 & 0x80008000u) | (q >> 5 & 0x01000100u) | (q >> 4 & 0x00c000c0u);
  return q << 3 * f & 0x81c081c0u;
}
// What that is multiplied by, twice: the scale of row 2 * i + half of a lane's eight in step s, times 2^126 (MXFP4, scales
// up to 2) or 2^118 (NVFP4, normal E4M3; the factor 2^8 is made good with the scale of the tensor).
DEVICE u32 factor(const u32* meta, int row, int s) {
  if (WEIGHTS == MXFP4) return permute(meta[row >> 1], 0u, 0x4040u + (2 * (row & 1) + (s >> 1)) * 0x101u) * 128u + 0x3f003f00u;
  return permute(meta[row], 0u, 0x4040u + s * 0x101u) * 16u + 0x77007700u;
}
// NF4: four codes as two registers. The sixteen quantiles as bf16 lie in eight words, high bytes and low bytes apart; a
// permutation looks four codes up in eight bytes, and their top bits choose between the lower and the upper eight.
DEVICE void quantiles(u32 q, u32& first, u32& second) {
  const u32 upper = permute(q, q << 4, 0x9d8cu), codes = q & 0x7777u;
  const u32 low = lop3<0xca>(upper, permute(0xad7c25a3u, 0x803910e2u, codes), permute(0xca063280u, 0x00ba3d92u, codes));
  const u32 high = lop3<0xca>(upper, permute(0x3e3e3e3du, 0x3f3f3f3eu, codes), permute(0xbebfbfbfu, 0x00bdbebeu, codes));
  first = permute(low, high, 0x5140u);
  second = permute(low, high, 0x7362u);
}
// Two E4M3 codes in the high bytes of each half.
DEVICE u32 fp8(u32 q) {
  const u32 sign = q & 0x80008000u;
#if BF16
  return fma_bf16x2(sign | (q & 0x7f007f00u) >> 4, 0x7b807b80u, 0u);  // exponents differ by 120
#else
  return fma_f16x2(sign | (q & 0x7f007f00u) >> 1, 0x5c005c00u, 0u);  // by 8
#endif
}
// Two signed bytes in the low bytes of each half.
DEVICE u32 bytes8(u32 q) {
#if BF16  // 128 + low seven bits, minus 128 or, for negative values, 256
  return fma_bf16x2(lop3<0xea>(q, 0x00800080u, 0x43004300u), 0xbf80bf80u, lop3<0xea>(q, 0x007f007fu, 0x43004300u));
#else
  return sub_f16x2(lop3<0xea>(q ^ 0x00800080u, 0x00ff00ffu, 0x64006400u), 0x64806480u);
#endif
}
// The four registers of a 16x16 tile from a lane's words: rows g and g + 8, inputs j = 0, 1, then the same for 2, 3.
DEVICE void unpack(const u32* q, u32 zeros, u32 (&a)[4]) {
  if (BITS == 16) {
#pragma unroll
    for (int f = 0; f < 4; ++f) a[f] = q[f % WORDS];
  } else if (BITS == 8) {
#pragma unroll
    for (int f = 0; f < 4; ++f) {
      const u32 word = q[(f >> 1) % WORDS];
      a[f] = WEIGHTS == E4M3 ? fp8(f & 1 ? word : word << 8) : bytes8(f & 1 ? word >> 8 : word);
    }
  } else if (WEIGHTS == NF4) {
    quantiles(q[0], a[0], a[1]);
    quantiles(q[0] >> 16, a[2], a[3]);
  } else {
#pragma unroll
    for (int f = 0; f < 4; ++f)
      a[f] = FP4 ? fp4(q[0], f) : nibbles(q[0], 4 * f, f & 1 ? zeros >> 4 & 15u : zeros & 15u);
  }
}
// Scale of row 2 * i + half of a lane's eight.
DEVICE float group_scale(const u32* meta, int row) {
  if (WEIGHTS == NF4) return as_float(meta[row]);
  return widen(meta[row >> 1] >> (16 * (row & 1)) & 0xffffu);
}

#if GROUPED
#define SEGMENT_ARGUMENTS , const int* segments, const int* order
#else
#define SEGMENT_ARGUMENTS
#endif

KERNEL skinny(const u32* weights, const u8* meta, const float* row_scales, const u16* x, u16* y, float* parts,
              u32* arrived, int m_all, int n_all, int k_all SEGMENT_ARGUMENTS) {
  SHARED(shared);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  const int warp_n = warp % WARPS_N, warp_k = warp / WARPS_N;
  const int row_blocks = n_all >> 6, chunks = k_all >> 6, groups = chunks / CHUNKS_PER_GROUP;
  const int row_block = blockIdx.x * WARPS_N + warp_n;
  const bool live = row_block < row_blocks;
#if GROUPED
  const int expert = load(segments + 3 * blockIdx.z), first = load(segments + 3 * blockIdx.z + 1);
  const int count = load(segments + 3 * blockIdx.z + 2);
  if (count == 0) return;
  weights += (u64)expert * row_blocks * chunks * (BLOCK_BYTES / 4);
  meta += (u64)expert * groups * row_blocks * META_BYTES;
  row_scales += (u64)expert * n_all;
#else
  const int first = blockIdx.z * BATCH, count = m_all - first < BATCH ? m_all - first : BATCH;
#endif
  const int steps = (chunks + WARPS_K - 1) / WARPS_K;
  const int begin = (int)((u64)steps * blockIdx.y / gridDim.y), end = (int)((u64)steps * (blockIdx.y + 1) / gridDim.y);
  const u64 once = first_out();

  auto fetch = [&](int step) {
    u8* stage = shared + (step - begin) % STAGES * STAGE_BYTES;
    const int chunk = step * WARPS_K + warp_k;
    const bool wanted = live && chunk < chunks;
    const u64 block = wanted ? (u64)row_block * chunks + chunk : 0;
#pragma unroll
    for (int i = 0; i < 4 * VECTORS; ++i)
      copy16_once(stage + warp * BLOCK_BYTES + i * 512 + lane * 16, weights + block * (BLOCK_BYTES / 4) + i * 128 + lane * 4,
                  wanted, once);
    if (META_BYTES && lane < META_BYTES / 16) {
      const u64 group = wanted ? (u64)(chunk / CHUNKS_PER_GROUP) * row_blocks + row_block : 0;
      copy16(stage + WARPS * BLOCK_BYTES + warp * META_BYTES + lane * 16, meta + group * META_BYTES + lane * 16, wanted);
    }
    constexpr int VEC = INPUTS / 8, ALL = BATCH * VEC;
#pragma unroll
    for (int r = 0; r < (ALL + THREADS - 1) / THREADS; ++r) {  // a known count of rounds: otherwise it is not unrolled
      const int v = tid + r * THREADS;
      if (ALL % THREADS && v >= ALL) break;
      const int token = v / VEC, c = v % VEC, k = step * INPUTS + c * 8;
      const bool here = token < count && k < k_all;
#if GROUPED
      const int source_row = here ? load(order + first + token) : 0;
#else
      const int source_row = here ? first + token : 0;
#endif
      copy16(stage + X_AT + token * X_PITCH + c * 16, x + (u64)source_row * k_all + (here ? k : 0), here);
    }
  };

  float sum[4][TOKENS][4];
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int m = 0; m < TOKENS; ++m)
#pragma unroll
      for (int j = 0; j < 4; ++j) sum[i][m][j] = 0.f;

#pragma unroll
  for (int p = 0; p < STAGES - 1; ++p) {
    if (begin + p < end) fetch(begin + p);
    copies_commit();
  }
  for (int step = begin; step < end; ++step) {
    copies_wait<STAGES - 2>();
    sync_block();  // this stage is there for all, and the one before has been read by all
    if (step + STAGES - 1 < end) fetch(step + STAGES - 1);
    copies_commit();
    const u8* stage = shared + (step - begin) % STAGES * STAGE_BYTES;
    const u8* mine = stage + warp * BLOCK_BYTES + lane * 16;
    const u8* facts = stage + WARPS * BLOCK_BYTES + warp * META_BYTES;
    const u8* activations = stage + X_AT + warp_k * 128 + t * 8;
    u32 scales[SCALE_BYTES ? 2 * SCALE_BYTES : 1], zeros = 0x88888888u;  // of rows 2 * i + half
    if (GROUP_SCALES) {
#pragma unroll
      for (int i = 0; i < 2 * SCALE_BYTES; ++i) scales[i] = ((const u32*)(facts + g * 8 * SCALE_BYTES))[i];
    }
    if (ZERO_BYTES) zeros = *(const u32*)(facts + 64 * SCALE_BYTES + g * 4);

    auto inputs_of = [&](int s, int m, u32& b0, u32& b1) {
      const v2u b = *(const v2u*)(activations + (m * 8 + g) * X_PITCH + s * 32);
      b0 = b.x;
      b1 = b.y;
    };
    auto vector_of = [&](int i, int s, u32 (&q)[4]) {  // holds STEPS_PER_VECTOR steps
      const v4u v = *(const v4u*)(mine + (i * VECTORS + s / STEPS_PER_VECTOR) * 512);
      q[0] = v.x; q[1] = v.y; q[2] = v.z; q[3] = v.w;
    };
    if (GROUP_SCALES && !SCALED_WEIGHTS && !FP4) {
      u32 b[TOKENS][4][2];
#pragma unroll
      for (int m = 0; m < TOKENS; ++m)
#pragma unroll
        for (int s = 0; s < 4; ++s) inputs_of(s, m, b[m][s][0], b[m][s][1]);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        u32 q[4];
        vector_of(i, 0, q);
        float part[TOKENS][4];
#pragma unroll
        for (int m = 0; m < TOKENS; ++m) part[m][0] = part[m][1] = part[m][2] = part[m][3] = 0.f;
#pragma unroll
        for (int s = 0; s < 4; ++s) {
          u32 a[4];
          unpack(q + s % STEPS_PER_VECTOR * WORDS, zeros >> (8 * i), a);
#pragma unroll
          for (int m = 0; m < TOKENS; ++m) product(part[m], a, b[m][s][0], b[m][s][1]);
        }
        const float low = group_scale(scales, 2 * i), high = group_scale(scales, 2 * i + 1);
#pragma unroll
        for (int m = 0; m < TOKENS; ++m) {
          sum[i][m][0] += low * part[m][0];
          sum[i][m][1] += low * part[m][1];
          sum[i][m][2] += high * part[m][2];
          sum[i][m][3] += high * part[m][3];
        }
      }
    } else {
      u32 q[4][4];
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        if (s % STEPS_PER_VECTOR == 0) {
#pragma unroll
          for (int i = 0; i < 4; ++i) vector_of(i, s, q[i]);
        }
        u32 b[TOKENS][2];
#pragma unroll
        for (int m = 0; m < TOKENS; ++m) inputs_of(s, m, b[m][0], b[m][1]);
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          u32 a[4];
          unpack(q[i] + s % STEPS_PER_VECTOR * WORDS, zeros >> (8 * i), a);
          if (SCALED_WEIGHTS || FP4) {
            const u32 low = FP4 ? factor(scales, 2 * i, s) : twice(narrow(group_scale(scales, 2 * i)));
            const u32 high = FP4 ? factor(scales, 2 * i + 1, s) : twice(narrow(group_scale(scales, 2 * i + 1)));
#pragma unroll
            for (int f = 0; f < 4; ++f) a[f] = fma2(a[f], f & 1 ? high : low, 0u);
          }
#pragma unroll
          for (int m = 0; m < TOKENS; ++m) product(sum[i][m], a, b[m][0], b[m][1]);
        }
      }
    }
  }
  copies_wait<0>();
  sync_block();

  float* sums = (float*)shared;  // [warp_k][token][row]
#pragma unroll
  for (int i = 0; i < 4; ++i)
#pragma unroll
    for (int m = 0; m < TOKENS; ++m)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const int row = warp_n * 64 + i * 16 + g + (j >> 1) * 8, token = m * 8 + 2 * t + (j & 1);
        sums[(warp_k * BATCH + token) * ROWS + row] = sum[i][m][j];
      }
  sync_block();

  const int row0 = blockIdx.x * ROWS;
  const bool split = gridDim.y > 1;
  auto scaled = [&](float v, int row) {
    if (WEIGHTS == NVFP4) return narrow(v * 256.f * load(row_scales));
    return narrow(BITS == 8 ? v * load(row_scales + row) : v);
  };
  for (int e = tid; e < count * ROWS; e += THREADS) {
    const int token = e / ROWS, row = row0 + e % ROWS;
    if (row >= n_all) continue;
    float v = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS_K; ++w) v += sums[w * BATCH * ROWS + e];
    if (split) store_l2(parts + ((u64)blockIdx.y * m_all + first + token) * n_all + row, v);
    else store(y + (u64)(first + token) * n_all + row, scaled(v, row));
  }
  if (!split) return;
  fence();
  sync_block();
  u32* flag = (u32*)(shared + FLAG_AT);
  if (tid == 0) *flag = count_up(arrived + blockIdx.z * gridDim.x + blockIdx.x, gridDim.y - 1);
  sync_block();
  if (*flag != gridDim.y - 1) return;
  fence();
  for (int e = tid; e < count * ROWS; e += THREADS) {
    const int token = e / ROWS, row = row0 + e % ROWS;
    if (row >= n_all) continue;
    float v = 0.f;
    for (int z = 0; z < (int)gridDim.y; ++z) v += load_l2(parts + ((u64)z * m_all + first + token) * n_all + row);
    store(y + (u64)(first + token) * n_all + row, scaled(v, row));
  }
}
