// Y[M,N] = X[M,K] W[N,K]^T on the tensor cores, operands of 16 or 8 bits (TYPE), results bf16.
//
//  * A stage of the ring holds 128 bytes of inputs of TILE_M tokens and TILE_N rows of weights. 16-byte chunks are
//    stored at chunk ^ (row % 8), so that neither the copies nor the matrix loads meet in a bank.
//  * 8-bit operands carry a scale per token and per row of weights; BLOCKWISE: per token and 128 inputs, and per
//    128 x 128 weights, applied to the sums of each stage.
//  * gridDim.y splits the inputs; the last block to arrive adds the parts in a fixed order.
//  * GROUPED: each tile of tokens is a segment that names its expert, and tokens are gathered through `order`.
#include "prim.cuh"

#define FP16 0
#define BF16 1
#define INT8 2
#define E4M3 3

constexpr int VALUE_BYTES = TYPE <= BF16 ? 2 : 1;
constexpr int ROW_BYTES = 128, CHUNKS = ROW_BYTES / 16, STEPS = ROW_BYTES / 32;
constexpr int WARPS_M = TILE_M / WARP_M, WARPS_N = TILE_N / WARP_N;
constexpr int PIECES_M = WARP_M / 16, PIECES_N = WARP_N / 8;
constexpr int STAGE_BYTES = (TILE_M + TILE_N) * ROW_BYTES;
constexpr int FLAG_AT = STAGES * STAGE_BYTES;
constexpr int STRIP = 8;  // tiles of tokens that run together, so that their weights stay in the L2
static_assert(FLAG_AT + 16 == SHARED_BYTES, "the launcher allocates what the kernel uses");
static_assert(THREADS == 32 * WARPS_M * WARPS_N, "one thread per lane");
static_assert(PIECES_N % 2 == 0, "weights are loaded two pieces at a time");

#if TYPE == INT8
typedef int Sum;
#else
typedef float Sum;
#endif
DEVICE void product(Sum (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if TYPE == FP16
  mma_f16(d, a, b0, b1);
#elif TYPE == BF16
  mma_bf16(d, a, b0, b1);
#elif TYPE == INT8
  mma_s8(d, a, b0, b1);
#else
  mma_e4m3(d, a, b0, b1);
#endif
}
DEVICE u16 narrow(float v) {
#if TYPE == FP16
  return to_f16(v);
#else
  return to_bf16(v);
#endif
}

#if GROUPED
#define SEGMENT_ARGUMENTS , const int* segments, const int* order
#else
#define SEGMENT_ARGUMENTS
#endif

KERNEL gemm(const u8* weights, const u8* x, const float* w_scales, const float* x_scales, u16* y, float* parts,
            u32* arrived, int m_all, int n_all, int k_all SEGMENT_ARGUMENTS) {
  SHARED(shared);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  const int warp_m = warp % WARPS_M, warp_n = warp / WARPS_M;
  const int tiles_n = (n_all + TILE_N - 1) / TILE_N, tiles_m = gridDim.x / tiles_n;
  const int strip = blockIdx.x / (STRIP * tiles_n), strip_m = tiles_m - strip * STRIP < STRIP ? tiles_m - strip * STRIP : STRIP;
  const int inside = blockIdx.x - strip * STRIP * tiles_n;
  const int tile_m = strip * STRIP + inside % strip_m, tile_n = inside / strip_m;
#if GROUPED
  const int expert = load(segments + 3 * tile_m), first = load(segments + 3 * tile_m + 1);
  const int count = load(segments + 3 * tile_m + 2);
  weights += (u64)expert * n_all * k_all * VALUE_BYTES;
  w_scales += BLOCKWISE ? (u64)expert * ((n_all + 127) / 128) * ((k_all + 127) / 128) : (u64)expert * n_all;
#else
  const int first = tile_m * TILE_M, count = m_all - first < TILE_M ? m_all - first : TILE_M;
#endif
  const int k_bytes = k_all * VALUE_BYTES, steps = (k_bytes + ROW_BYTES - 1) / ROW_BYTES;
  const int begin = (int)((u64)steps * blockIdx.y / gridDim.y), end = (int)((u64)steps * (blockIdx.y + 1) / gridDim.y);

  auto fetch = [&](int step) {
    u8* stage = shared + (step - begin) % STAGES * STAGE_BYTES;
    constexpr int ALL = (TILE_M + TILE_N) * CHUNKS;
#pragma unroll
    for (int r = 0; r < (ALL + THREADS - 1) / THREADS; ++r) {
      const int v = tid + r * THREADS;
      if (ALL % THREADS && v >= ALL) break;
      const int row = v / CHUNKS, chunk = v % CHUNKS, at = step * ROW_BYTES + chunk * 16;
      u8* to = stage + row * ROW_BYTES + (chunk ^ (row & 7)) * 16;
      if (row < TILE_M) {
        const bool wanted = row < count && at < k_bytes;
#if GROUPED
        const int token = wanted ? load(order + first + row) : 0;
#else
        const int token = first + row;
#endif
        copy16(to, x + (wanted ? (u64)token * k_bytes + at : 0), wanted);
      } else {
        const int n = tile_n * TILE_N + row - TILE_M;
        const bool wanted = n < n_all && at < k_bytes;
        copy16(to, weights + (wanted ? (u64)n * k_bytes + at : 0), wanted);
      }
    }
  };

  float sum[PIECES_M][PIECES_N][4];
  Sum part[PIECES_M][PIECES_N][4];
#pragma unroll
  for (int i = 0; i < PIECES_M; ++i)
#pragma unroll
    for (int j = 0; j < PIECES_N; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        part[i][j][e] = 0;
        if (BLOCKWISE) sum[i][j][e] = 0.f;
      }

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
    const u8* stage_x = shared + (step - begin) % STAGES * STAGE_BYTES + warp_m * WARP_M * ROW_BYTES;
    const u8* stage_w = shared + (step - begin) % STAGES * STAGE_BYTES + (TILE_M + warp_n * WARP_N) * ROW_BYTES;
#pragma unroll
    for (int s = 0; s < STEPS; ++s) {
      u32 a[PIECES_M][4], b[PIECES_N / 2][4];
#pragma unroll
      for (int i = 0; i < PIECES_M; ++i) {
        const int row = i * 16 + (lane & 15), chunk = 2 * s + (lane >> 4);
        load_matrices(a[i], stage_x + row * ROW_BYTES + (chunk ^ (row & 7)) * 16);
      }
#pragma unroll
      for (int j = 0; j < PIECES_N / 2; ++j) {
        const int row = j * 16 + (lane & 7) + (lane >> 4) * 8, chunk = 2 * s + (lane >> 3 & 1);
        load_matrices(b[j], stage_w + row * ROW_BYTES + (chunk ^ (row & 7)) * 16);
      }
#pragma unroll
      for (int i = 0; i < PIECES_M; ++i)
#pragma unroll
        for (int j = 0; j < PIECES_N; ++j) product(part[i][j], a[i], b[j / 2][j % 2 * 2], b[j / 2][j % 2 * 2 + 1]);
    }
    if (BLOCKWISE) {
      const int blocks = (k_all + 127) / 128;
#pragma unroll
      for (int i = 0; i < PIECES_M; ++i)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const int row = warp_m * WARP_M + i * 16 + h * 8 + g;
          const float x_scale = row < count ? load(x_scales + (u64)step * m_all + first + row) : 0.f;
#pragma unroll
          for (int j = 0; j < PIECES_N; ++j) {
            const int n = tile_n * TILE_N + warp_n * WARP_N + j * 8;
            const float scale = n < n_all ? x_scale * load(w_scales + (u64)(n / 128) * blocks + step) : 0.f;
            sum[i][j][2 * h] += scale * (float)part[i][j][2 * h];
            sum[i][j][2 * h + 1] += scale * (float)part[i][j][2 * h + 1];
            part[i][j][2 * h] = part[i][j][2 * h + 1] = 0;
          }
        }
    }
  }
  copies_wait<0>();

  const bool split = gridDim.y > 1, row_scaled = VALUE_BYTES == 1 && !BLOCKWISE;
  auto scaled = [&](float v, int token, int n) {
    return narrow(row_scaled ? v * load(x_scales + first + token) * load(w_scales + n) : v);
  };
#pragma unroll
  for (int i = 0; i < PIECES_M; ++i)
#pragma unroll
    for (int j = 0; j < PIECES_N; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        const int token = warp_m * WARP_M + i * 16 + h * 8 + g, n = tile_n * TILE_N + warp_n * WARP_N + j * 8 + 2 * t;
        if (token >= count) continue;
        const float v0 = BLOCKWISE ? sum[i][j][2 * h] : (float)part[i][j][2 * h];
        const float v1 = BLOCKWISE ? sum[i][j][2 * h + 1] : (float)part[i][j][2 * h + 1];
        const u64 at = (u64)(first + token) * n_all + n;
        if (split) {
          float* mine = parts + (u64)blockIdx.y * m_all * n_all + at;
          if (n < n_all) store_l2(mine, v0);
          if (n + 1 < n_all) store_l2(mine + 1, v1);
        } else if (n + 1 < n_all && !(n_all & 1)) {
          store((u32*)(y + at), (u32)scaled(v0, token, n) | (u32)scaled(v1, token, n + 1) << 16);
        } else {
          if (n < n_all) store(y + at, scaled(v0, token, n));
          if (n + 1 < n_all) store(y + at + 1, scaled(v1, token, n + 1));
        }
      }
  if (!split) return;
  fence();
  sync_block();
  u32* flag = (u32*)(shared + FLAG_AT);
  if (tid == 0) *flag = count_up(arrived + blockIdx.x, gridDim.y - 1);
  sync_block();
  if (*flag != gridDim.y - 1) return;
  fence();
  for (int e = tid; e < count * TILE_N; e += THREADS) {
    const int token = e / TILE_N, n = tile_n * TILE_N + e % TILE_N;
    if (n >= n_all) continue;
    const u64 at = (u64)(first + token) * n_all + n;
    float v = 0.f;
    for (int z = 0; z < (int)gridDim.y; ++z) v += load_l2(parts + (u64)z * m_all * n_all + at);
    store(y + at, scaled(v, token, n));
  }
}
