// Y[M,N] = X[M,K] W[N,K]^T with weights as they lie in a GGUF file, few tokens, activations of 8 bits per 32 values.
//
//  * A warp streams its rows one after the other, 1024 values at a time (32 per lane), through its own ring of copies:
//    shared memory absorbs blocks that are aligned to 2 bytes only. Copies start at the 16 bytes below.
//  * Integer dot products of four bytes; a lane adds its 32 values scaled in fp32, lanes add up at the end of a row.
//  * Layouts: ggml's block_q8_0, block_q4_K, block_q6_K. q8_sums holds scale times sum of each 32 activations, which is
//    what the minimum of a block multiplies.
#include "prim.cuh"

#define Q8_0 0
#define Q4_K 1
#define Q6_K 2

constexpr int SUPER = 256, RUN = 1024;                       // values of a super-block, of a warp's step
constexpr int SUPER_BYTES = GGUF == Q8_0 ? 272 : GGUF == Q4_K ? 144 : 210;
constexpr int RUN_BYTES = RUN / SUPER * SUPER_BYTES;
constexpr int STAGE_BYTES = (RUN_BYTES + 15 + 15) / 16 * 16;  // from the 16 bytes below the first to those of the last
constexpr int WARPS = THREADS / 32;
static_assert(WARPS * STAGES * STAGE_BYTES == SHARED_BYTES, "the launcher allocates what the kernel uses");

DEVICE u32 word(const u8* p) {  // four bytes at an even address
  return *(const u16*)p | (u32)*(const u16*)(p + 2) << 16;
}
DEVICE float half_at(const u8* p) { return from_f16(*(const u16*)p); }

struct Piece { int q[8]; float scale[2], minimum; };  // 32 values: integers, a scale per 16, a minimum for all

DEVICE Piece piece_of(const u8* super, int j) {  // super-block, which 32 of its 256 values
  Piece p;
  p.minimum = 0.f;
#if GGUF == Q8_0
  const u8* block = super + 34 * j;
#pragma unroll
  for (int i = 0; i < 8; ++i) p.q[i] = (int)word(block + 2 + 4 * i);
  p.scale[0] = p.scale[1] = half_at(block);
#elif GGUF == Q4_K
  const u8* codes = super + 16 + 32 * (j >> 1);
#pragma unroll
  for (int i = 0; i < 8; ++i) p.q[i] = (int)(*(const u32*)(codes + 4 * i) >> (4 * (j & 1)) & 0x0f0f0f0fu);
  const u8* s = super + 4;
  const u32 scale = j < 4 ? s[j] & 63u : (s[j + 4] & 15u) | s[j - 4] >> 6 << 4;
  const u32 minimum = j < 4 ? s[j + 4] & 63u : (u32)(s[j + 4] >> 4) | s[j] >> 6 << 4;
  p.scale[0] = p.scale[1] = half_at(super) * (float)scale;
  p.minimum = half_at(super + 2) * (float)minimum;
#else
  const int half = j >> 2, quarter = j & 3;
  const u8 *low = super + 64 * half + 32 * (quarter & 1), *high = super + 128 + 32 * half;
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    const u32 bits = (word(low + 4 * i) >> (4 * (quarter >> 1)) & 0x0f0f0f0fu) | (word(high + 4 * i) >> (2 * quarter) & 0x03030303u) << 4;
    p.q[i] = (int)(((bits | 0x80808080u) - 0x20202020u) ^ 0x80808080u);  // minus 32 in every byte
  }
  const float d = half_at(super + 208);
#pragma unroll
  for (int h = 0; h < 2; ++h) p.scale[h] = d * (float)(i8)super[192 + 8 * half + 2 * quarter + h];
#endif
  return p;
}

KERNEL gguf(const u8* weights, u64 weight_bytes, const v4u* q8, const float* q8_scales, const float* q8_sums, float* y,
            int m_all, int n_all, int k_all) {
  SHARED(shared);
  const int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  const u64 row_bytes = (u64)k_all / SUPER * SUPER_BYTES;
  const int runs = (k_all + RUN - 1) / RUN, blocks = k_all / 32;
  const int worker = blockIdx.x * WARPS + warp, workers = gridDim.x * WARPS;
  const int row_begin = (int)((u64)n_all * worker / workers), row_end = (int)((u64)n_all * (worker + 1) / workers);
  const int steps = (row_end - row_begin) * runs;
  u8* ring = shared + warp * STAGES * STAGE_BYTES;
  const u64 once = first_out();

  auto start_of = [&](int step) { return (u64)(row_begin + step / runs) * row_bytes + (u64)(step % runs) * RUN_BYTES; };
  auto fetch = [&](int step) {
    const u64 from = start_of(step) & ~(u64)15;
    u8* stage = ring + step % STAGES * STAGE_BYTES;
#pragma unroll
    for (int i = 0; i < (STAGE_BYTES / 16 + 31) / 32; ++i) {
      const int v = lane + 32 * i;
      if (v < STAGE_BYTES / 16) copy16_once(stage + 16 * v, weights + from + 16 * v, from + 16 * v + 16 <= weight_bytes, once);
    }
  };

  float sum[TOKENS];
#pragma unroll
  for (int m = 0; m < TOKENS; ++m) sum[m] = 0.f;
#pragma unroll
  for (int p = 0; p < STAGES - 1; ++p) {
    if (p < steps) fetch(p);
    copies_commit();
  }
  for (int step = 0; step < steps; ++step) {
    copies_wait<STAGES - 2>();
    sync_warp();  // this run is there for all lanes, and all have read the one before
    if (step + STAGES - 1 < steps) fetch(step + STAGES - 1);
    copies_commit();
    const u8* run = ring + step % STAGES * STAGE_BYTES + (start_of(step) & 15);
    const int block = step % runs * (RUN / 32) + lane;  // of 32 values
    if (block < blocks) {
      const Piece w = piece_of(run + lane / 8 * SUPER_BYTES, lane % 8);
#pragma unroll
      for (int m = 0; m < TOKENS; ++m) {
        if (m >= m_all) break;
        const u64 at = (u64)m * blocks + block;
        const v4u low = load(q8 + 2 * at), high = load(q8 + 2 * at + 1);
        int first = dot4(w.q[0], (int)low.x, 0), second = dot4(w.q[4], (int)high.x, 0);
        first = dot4(w.q[1], (int)low.y, first);
        first = dot4(w.q[2], (int)low.z, first);
        first = dot4(w.q[3], (int)low.w, first);
        second = dot4(w.q[5], (int)high.y, second);
        second = dot4(w.q[6], (int)high.z, second);
        second = dot4(w.q[7], (int)high.w, second);
        sum[m] += (w.scale[0] * (float)first + w.scale[1] * (float)second) * load(q8_scales + at);
        if (GGUF == Q4_K) sum[m] -= w.minimum * load(q8_sums + at);
      }
    }
    if (step % runs == runs - 1) {
#pragma unroll
      for (int m = 0; m < TOKENS; ++m) {
        for (int mask = 16; mask; mask /= 2) sum[m] += shuffle_xor(sum[m], mask);
        if (lane == 0 && m < m_all) store(y + (u64)m * n_all + row_begin + step / runs, sum[m]);
        sum[m] = 0.f;
      }
    }
  }
  copies_wait<0>();
}
