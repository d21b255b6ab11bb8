// Y[M,N] = X[M,K] W[N,K]^T with weights as they lie in a GGUF file, few tokens, activations of 8 bits per 32 values.
//
//  * A warp streams its rows two by two, 1024 values of each at a time (32 per lane), through its own ring of copies:
//    both meet the same activations. Shared memory absorbs blocks that are aligned to 2 bytes only: copies start at the
//    16 bytes below.
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
constexpr int WARPS = THREADS / 32, ROWS = 2;
static_assert(WARPS * STAGES * ROWS * STAGE_BYTES == SHARED_BYTES, "the launcher allocates what the kernel uses");

DEVICE u32 word(const u8* p) {  // four bytes at an even address
  return *(const u16*)p | (u32)*(const u16*)(p + 2) << 16;
}
DEVICE float half_at(const u8* p) { return from_f16(*(const u16*)p); }

DEVICE int product(int weights, u32 activations, int sum) {  // of four bytes; nibbles have no sign
  return GGUF == Q4_K ? dot4_unsigned((u32)weights, (int)activations, sum) : dot4(weights, (int)activations, sum);
}

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
  // Two pieces share 32 bytes: the high nibbles stay where they are, sixteen times too large.
  const v4u low = *(const v4u*)(super + 16 + 32 * (j >> 1)), high = *(const v4u*)(super + 32 + 32 * (j >> 1));
  const u32 words[8] = {low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w};
  const u32 nibbles = j & 1 ? 0xf0f0f0f0u : 0x0f0f0f0fu;
#pragma unroll
  for (int i = 0; i < 8; ++i) p.q[i] = (int)(words[i] & nibbles);
  // Six bits each: those of the first four pieces in the low bits of a byte, the others' in a nibble and two top bits.
  const v4u head = *(const v4u*)super;
  const int shift = 8 * (j & 3);
  const u32 a = head.y >> shift, b = head.z >> shift, c = head.w >> shift, late = j & 4 ? ~0u : 0u;
  const u32 scale = (a & 63u & ~late) | (((c & 15u) | (a >> 2 & 48u)) & late);
  const u32 minimum = (b & 63u & ~late) | (((c >> 4 & 15u) | (b >> 2 & 48u)) & late);
  p.scale[0] = p.scale[1] = from_f16((u16)head.x) * (float)scale * (j & 1 ? 0.0625f : 1.f);
  p.minimum = from_f16((u16)(head.x >> 16)) * (float)minimum;
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
  const int pairs = n_all / ROWS, begin = (int)((u64)pairs * worker / workers), end = (int)((u64)pairs * (worker + 1) / workers);
  const int steps = (end - begin) * runs;
  const u8* const last = weights + weight_bytes;
  const u64 to_next_rows = ROWS * row_bytes - (u64)(runs - 1) * RUN_BYTES;  // from the last run of two rows
  u8* const ring = shared + warp * STAGES * ROWS * STAGE_BYTES;
  const u64 once = first_out();

  // Where a run starts, how many of its row follow, where it lies in the ring: counted, as division costs more than the run.
  struct Place { const u8* from; int left; u8* stage; };
  auto advance = [&](Place& p) {
    p.from += p.left ? (u64)RUN_BYTES : to_next_rows;
    p.left = p.left ? p.left - 1 : runs - 1;
    p.stage = p.stage == ring + (STAGES - 1) * ROWS * STAGE_BYTES ? ring : p.stage + ROWS * STAGE_BYTES;
  };
  auto fetch = [&](Place& p) {
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      const u8* from = p.from + r * row_bytes;
      from = from - ((u64)from & 15) + 16 * lane;
#pragma unroll
      for (int i = 0; i < (STAGE_BYTES / 16 + 31) / 32; ++i) {
        if (lane + 32 * i < STAGE_BYTES / 16)
          copy16_once(p.stage + r * STAGE_BYTES + 16 * (lane + 32 * i), from + 512 * i, from + 512 * i + 16 <= last, once);
      }
    }
    advance(p);
  };

  const Place first = {weights + (u64)begin * ROWS * row_bytes, runs - 1, ring};
  Place here = first, ahead = first;
  float sum[ROWS][TOKENS];
#pragma unroll
  for (int r = 0; r < ROWS; ++r)
#pragma unroll
    for (int m = 0; m < TOKENS; ++m) sum[r][m] = 0.f;
#pragma unroll
  for (int p = 0; p < STAGES - 1; ++p) {
    if (p < steps) fetch(ahead);
    copies_commit();
  }
  int row = begin * ROWS, block = lane;  // of 32 values
  for (int step = 0; step < steps; ++step) {
    copies_wait<STAGES - 2>();
    sync_warp();  // this run is there for all lanes, and all have read the one before
    if (step + STAGES - 1 < steps) fetch(ahead);
    copies_commit();
    const bool live = block < blocks;  // no branch: lanes past a row's end and tokens past the last count nothing
    Piece w[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      w[r] = piece_of(here.stage + r * STAGE_BYTES + ((u64)(here.from + r * row_bytes) & 15) + lane / 8 * SUPER_BYTES, lane % 8);
      w[r].scale[0] = live ? w[r].scale[0] : 0.f;
      w[r].scale[1] = live ? w[r].scale[1] : 0.f;
      w[r].minimum = live ? w[r].minimum : 0.f;
    }
#pragma unroll
    for (int m = 0; m < TOKENS; ++m) {
      const u64 at = (u64)(m < m_all ? m : 0) * blocks + (live ? block : 0);
      const v4u low = load(q8 + 2 * at), high = load(q8 + 2 * at + 1);
      const float scale = load(q8_scales + at), total = GGUF == Q4_K ? load(q8_sums + at) : 0.f;
#pragma unroll
      for (int r = 0; r < ROWS; ++r) {
        int early = product(w[r].q[0], low.x, 0), late = product(w[r].q[4], high.x, 0);
        early = product(w[r].q[1], low.y, early);
        early = product(w[r].q[2], low.z, early);
        early = product(w[r].q[3], low.w, early);
        late = product(w[r].q[5], high.y, late);
        late = product(w[r].q[6], high.z, late);
        late = product(w[r].q[7], high.w, late);
        const float dots = GGUF == Q6_K ? w[r].scale[0] * (float)early + w[r].scale[1] * (float)late
                                        : w[r].scale[0] * (float)(early + late);
        sum[r][m] += dots * scale;
        if (GGUF == Q4_K) sum[r][m] -= w[r].minimum * total;
      }
    }
    block += RUN / 32;
    if (here.left == 0) {
#pragma unroll
      for (int r = 0; r < ROWS; ++r)
#pragma unroll
        for (int m = 0; m < TOKENS; ++m) {
          for (int mask = 16; mask; mask /= 2) sum[r][m] += shuffle_xor(sum[r][m], mask);
          if (lane == 0 && m < m_all) store(y + (u64)m * n_all + row + r, sum[r][m]);
          sum[r][m] = 0.f;
        }
      row += ROWS;
      block = lane;
    }
    advance(here);
  }
  copies_wait<0>();
}
