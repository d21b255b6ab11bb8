// One query token per sequence over a paged cache: softmax(q K^T / sqrt(d)) V, grouped heads, cache of 16 or 8 bits.
//
//  * A block serves one sequence, one cached head with up to 16 of its query heads, and one part of the context.
//    Query heads are the m side of both products (padded to 16: arithmetic is not what binds).
//  * Each warp walks its own pages of 16 tokens with its own ring of copies and its own running softmax; warps meet
//    only at the end. gridDim.y splits the context; the last block to arrive joins the parts in a fixed order.
//  * 8-bit values are widened after the matrix load: a 32-bit word gives bytes 0, 2 and bytes 1, 3 as two registers,
//    so inputs of the first product and columns of the second are permuted inside 16, for Q and the result as well.
//  * Cached tokens past the context are never read: their copies write zeros, and their scores are masked.
#include "prim.cuh"

#define KV_BF16 0
#define KV_E4M3 1
#define KV_INT8 2

constexpr int PAGE = 16, HEADS = 16;
constexpr int VALUE_BYTES = KV == KV_BF16 ? 2 : 1;
constexpr int ROW_BYTES = HEAD_DIM * VALUE_BYTES, CHUNKS = ROW_BYTES / 16;
constexpr int SCALES_BYTES = KV == KV_INT8 ? PAGE * 4 : 0;  // of K, and again of V
constexpr int STAGE_BYTES = 2 * PAGE * ROW_BYTES + 2 * SCALES_BYTES;
constexpr int RING_BYTES = WARPS * STAGES * STAGE_BYTES;
constexpr int JOIN_BYTES = WARPS * HEADS * (HEAD_DIM + 2) * 4;
constexpr int FLAG_AT = RING_BYTES > JOIN_BYTES ? RING_BYTES : JOIN_BYTES;
constexpr int DIM_STEPS = HEAD_DIM / 16, OUT_PIECES = HEAD_DIM / 8;
constexpr float MASKED = -1e30f;
static_assert(FLAG_AT + 16 == SHARED_BYTES, "the launcher allocates what the kernel uses");
static_assert(THREADS == 32 * WARPS, "one thread per lane");

DEVICE void product(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
#if KV == KV_E4M3
  mma_f16(d, a, b0, b1);
#else
  mma_bf16(d, a, b0, b1);
#endif
}
DEVICE u32 pack(float low, float high) {
#if KV == KV_E4M3
  return pack_f16(low, high);
#else
  return pack_bf16(low, high);
#endif
}
// Bytes 1 and 3 of a word as two 16-bit numbers. E4M3 comes out 2^-8 times too small, which the scales make good.
DEVICE u32 widen(u32 q) {
#if KV == KV_E4M3
  return (q & 0x80008000u) | (q >> 1 & 0x3f803f80u);
#else  // 128 + low seven bits, minus 128 or, for negative values, 256
  return fma_bf16x2(lop3<0xea>(q >> 8, 0x00800080u, 0x43004300u), 0xbf80bf80u, lop3<0xea>(q >> 8, 0x007f007fu, 0x43004300u));
#endif
}
// Where a 16-byte chunk of a token's row lies: eight rows of one chunk never meet in a bank.
DEVICE int place(int row, int chunk) {
  return row * ROW_BYTES + (chunk ^ (CHUNKS >= 8 ? row & 7 : row >> 1 & 3)) * 16;
}
// Dimension of the first of two values that a lane holds in a register of step c: `high` is the second register.
DEVICE int dim_of(int c, int t, int high) { return VALUE_BYTES == 2 ? 16 * c + 2 * t + 8 * high : 16 * c + 4 * t + high; }
constexpr int NEXT_DIM = VALUE_BYTES == 2 ? 1 : 2;

KERNEL attention(const u16* q, const u8* keys, const u8* values, const float* key_scales, const float* value_scales,
                 const int* tables, const int* contexts, u16* out, float* parts, u32* arrived, int q_heads, int kv_heads,
                 int table_pages, float score_scale, float out_scale) {
  SHARED(shared);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  const int group = q_heads / kv_heads, slices = (group + HEADS - 1) / HEADS;
  const int kv_head = blockIdx.x / slices, slice = blockIdx.x % slices, seq = blockIdx.z;
  const int head0 = kv_head * group + slice * HEADS, heads = group - slice * HEADS < HEADS ? group - slice * HEADS : HEADS;
  const int context = load(contexts + seq), pages = (context + PAGE - 1) / PAGE;
  const int begin = (int)((u64)pages * blockIdx.y / gridDim.y), end = (int)((u64)pages * (blockIdx.y + 1) / gridDim.y);
  const int rounds = end - begin > warp ? (end - begin - warp + WARPS - 1) / WARPS : 0;
  const int* table = tables + (u64)seq * table_pages;
  u8* ring = shared + warp * STAGES * STAGE_BYTES;

  int next_page = rounds ? load(table + begin + warp) : 0;  // known one round before its tokens are asked for
  auto fetch = [&](int round) {
    u8* stage = ring + round % STAGES * STAGE_BYTES;
    const int first = (begin + warp + round * WARPS) * PAGE;
    const u64 page = (u64)next_page;
    if (round + 1 < rounds) next_page = load(table + begin + warp + (round + 1) * WARPS);
#pragma unroll
    for (int i = 0; i < (PAGE * CHUNKS + 31) / 32; ++i) {
      const int v = lane + 32 * i, row = v / CHUNKS, chunk = v % CHUNKS;
      const bool wanted = first + row < context;
      const u64 at = wanted ? ((page * PAGE + row) * kv_heads + kv_head) * ROW_BYTES + chunk * 16 : 0;
      copy16(stage + place(row, chunk), keys + at, wanted);
      copy16(stage + PAGE * ROW_BYTES + place(row, chunk), values + at, wanted);
    }
    if (SCALES_BYTES && lane < 8) {  // [page][head][token]
      const u64 at = (page * kv_heads + kv_head) * PAGE + (lane & 3) * 4;
      copy16(stage + 2 * PAGE * ROW_BYTES + lane * 16, (lane < 4 ? key_scales : value_scales) + at, true);
    }
  };

  u32 query[DIM_STEPS][4];
#pragma unroll
  for (int c = 0; c < DIM_STEPS; ++c)
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int head = g + (r & 1) * 8, dim = dim_of(c, t, r >> 1);
      const u16* from = q + ((u64)seq * q_heads + head0 + head) * HEAD_DIM + dim;
      query[c][r] = head < heads ? pack(from_bf16(load(from)), from_bf16(load(from + NEXT_DIM))) : 0u;
    }

  float o[OUT_PIECES][4], top[2] = {MASKED, MASKED}, total[2] = {0.f, 0.f};
#pragma unroll
  for (int c = 0; c < OUT_PIECES; ++c) o[c][0] = o[c][1] = o[c][2] = o[c][3] = 0.f;

#pragma unroll
  for (int p = 0; p < STAGES - 1; ++p) {
    if (p < rounds) fetch(p);
    copies_commit();
  }
  for (int round = 0; round < rounds; ++round) {
    copies_wait<STAGES - 2>();
    sync_warp();  // the page is there for all lanes, and all have read the one before
    if (round + STAGES - 1 < rounds) fetch(round + STAGES - 1);
    copies_commit();
    const u8* k_page = ring + round % STAGES * STAGE_BYTES;
    const u8* v_page = k_page + PAGE * ROW_BYTES;
    const float* scales = (const float*)(v_page + PAGE * ROW_BYTES);

    float s[2][4] = {{0.f, 0.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}};  // tokens 0-7 and 8-15
    if (VALUE_BYTES == 2) {
#pragma unroll
      for (int c = 0; c < DIM_STEPS; ++c) {
        u32 b[4];
        load_matrices(b, k_page + place((lane & 7) + (lane >> 4) * 8, 2 * c + (lane >> 3 & 1)));
        product(s[0], query[c], b[0], b[1]);
        product(s[1], query[c], b[2], b[3]);
      }
    } else {
#pragma unroll
      for (int c = 0; c < DIM_STEPS; c += 2) {
        u32 b[4];
        load_matrices(b, k_page + place(lane & 15, c + (lane >> 4)));
#pragma unroll
        for (int i = 0; i < 4; ++i) product(s[i & 1], query[c + (i >> 1)], widen(b[i] << 8), widen(b[i]));
      }
    }

    const int first = (begin + warp + round * WARPS) * PAGE;
    float highest[2] = {MASKED, MASKED};
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        const int token = 8 * j + 2 * t + (e & 1);
        const float factor = SCALES_BYTES ? score_scale * scales[token] : score_scale;
        s[j][e] = first + token < context ? s[j][e] * factor : MASKED;
        highest[e >> 1] = s[j][e] > highest[e >> 1] ? s[j][e] : highest[e >> 1];
      }
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      for (int mask = 1; mask < 4; mask *= 2) {
        const float other = shuffle_xor(highest[h], mask);
        highest[h] = other > highest[h] ? other : highest[h];
      }
      const float now = highest[h] > top[h] ? highest[h] : top[h], shrink = power2(top[h] - now);
      top[h] = now;
      total[h] *= shrink;
#pragma unroll
      for (int c = 0; c < OUT_PIECES; ++c) {
        o[c][2 * h] *= shrink;
        o[c][2 * h + 1] *= shrink;
      }
    }
    u32 p[4];
#pragma unroll
    for (int j = 0; j < 2; ++j)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        float low = power2(s[j][2 * h] - top[h]), high = power2(s[j][2 * h + 1] - top[h]);
        total[h] += low + high;
        if (SCALES_BYTES) {
          low *= scales[PAGE + 8 * j + 2 * t];
          high *= scales[PAGE + 8 * j + 2 * t + 1];
        }
        p[2 * j + h] = pack(low, high);
      }
#pragma unroll
    for (int c = 0; c < CHUNKS; c += 2) {
      u32 b[4];
      load_matrices_transposed(b, v_page + place(lane & 15, c + (lane >> 4)));
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        if (VALUE_BYTES == 2) {
          product(o[c + i], p, b[2 * i], b[2 * i + 1]);
        } else {
          product(o[2 * (c + i)], p, widen(b[2 * i] << 8), widen(b[2 * i + 1] << 8));
          product(o[2 * (c + i) + 1], p, widen(b[2 * i]), widen(b[2 * i + 1]));
        }
      }
    }
  }
  copies_wait<0>();
#pragma unroll
  for (int h = 0; h < 2; ++h)
    for (int mask = 1; mask < 4; mask *= 2) total[h] += shuffle_xor(total[h], mask);
  sync_block();

  // Join the warps: [warp][head][top, total, values].
  constexpr int RECORD = HEAD_DIM + 2;
  float* join = (float*)shared;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    float* mine = join + (warp * HEADS + g + 8 * h) * RECORD;
    if (t == 0) {
      mine[0] = top[h];
      mine[1] = total[h];
    }
#pragma unroll
    for (int c = 0; c < OUT_PIECES; ++c)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int dim = VALUE_BYTES == 2 ? 8 * c + 2 * t + e : 16 * (c >> 1) + 4 * t + 2 * e + (c & 1);
        mine[2 + dim] = o[c][2 * h + e];
      }
  }
  sync_block();
  const bool split = gridDim.y > 1;
  const u64 records = (u64)gridDim.z * q_heads, record0 = (u64)seq * q_heads + head0;
  for (int e = tid; e < heads * HEAD_DIM; e += THREADS) {
    const int head = e / HEAD_DIM, dim = e % HEAD_DIM;
    float highest = MASKED, sum = 0.f, v = 0.f;
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      const float m = join[(w * HEADS + head) * RECORD];
      highest = m > highest ? m : highest;
    }
#pragma unroll
    for (int w = 0; w < WARPS; ++w) {
      const float* one = join + (w * HEADS + head) * RECORD;
      const float weight = power2(one[0] - highest);
      sum += weight * one[1];
      v += weight * one[2 + dim];
    }
    if (split) {
      float* mine = parts + (blockIdx.y * records + record0 + head) * RECORD;
      store_l2(mine + 2 + dim, v);
      if (dim == 0) store_l2(mine, highest);
      if (dim == 1) store_l2(mine + 1, sum);
    } else {
      store(out + (record0 + head) * HEAD_DIM + dim, to_bf16(sum > 0.f ? v / sum * out_scale : 0.f));
    }
  }
  if (!split) return;
  fence();
  sync_block();
  u32* flag = (u32*)(shared + FLAG_AT);
  if (tid == 0) *flag = count_up(arrived + seq * gridDim.x + blockIdx.x, gridDim.y - 1);
  sync_block();
  if (*flag != gridDim.y - 1) return;
  fence();
  for (int e = tid; e < heads * HEAD_DIM; e += THREADS) {
    const int head = e / HEAD_DIM, dim = e % HEAD_DIM;
    float highest = MASKED, sum = 0.f, v = 0.f;
    for (int z = 0; z < (int)gridDim.y; ++z) {
      const float m = load_l2(parts + (z * records + record0 + head) * RECORD);
      highest = m > highest ? m : highest;
    }
    for (int z = 0; z < (int)gridDim.y; ++z) {
      const float* one = parts + (z * records + record0 + head) * RECORD;
      const float weight = power2(load_l2(one) - highest);
      sum += weight * load_l2(one + 1);
      v += weight * load_l2(one + 2 + dim);
    }
    store(out + (record0 + head) * HEAD_DIM + dim, to_bf16(sum > 0.f ? v / sum * out_scale : 0.f));
  }
}
