// One query token per sequence over a paged latent cache (MLA): every head scores the same LATENT + ROPE values per
// token and weighs the same first LATENT of them. Cache and queries bf16.
//
//  * A block serves 16 heads of one sequence and one part of the context. All warps share a page of 16 tokens: warp w
//    scores tokens with its share of the dimensions, scores meet in shared memory, then each warp weighs its own
//    columns of the result. Pages are read once per 16 heads; heads of one sequence find them in the L2.
//  * gridDim.y splits the context; the last block to arrive joins the parts in a fixed order.
#include "prim.cuh"

constexpr int PAGE = 16, HEADS = 16, WARPS = THREADS / 32;
constexpr int DIMS = LATENT + ROPE, ROW_BYTES = DIMS * 2, CHUNKS = ROW_BYTES / 16;
constexpr int PITCH = ROW_BYTES + 16;                    // rows of a page start in different banks
constexpr int PAGES = TOKENS / PAGE;                     // of a stage
constexpr int STAGE_BYTES = TOKENS * PITCH;
constexpr int STEPS = DIMS / 16, STEPS_EACH = (STEPS + WARPS - 1) / WARPS;
constexpr int COLUMNS = LATENT / WARPS, PIECES = COLUMNS / 8;
constexpr int SCORES_AT = STAGES * STAGE_BYTES;          // [warp][head][token]
constexpr int SCORES_BYTES = WARPS * HEADS * TOKENS * 4;
constexpr int FLAG_AT = SCORES_AT + SCORES_BYTES;
constexpr float MASKED = -1e30f;
static_assert(FLAG_AT + 16 == SHARED_BYTES, "the launcher allocates what the kernel uses");
static_assert(PIECES % 2 == 0, "values are loaded two pieces at a time");

KERNEL latent(const u16* q, const u16* cache, const int* tables, const int* contexts, u16* out, float* parts,
              u32* arrived, int heads_all, int table_pages, float score_scale) {
  SHARED(shared);
  const int tid = threadIdx.x, warp = tid >> 5, lane = tid & 31, g = lane >> 2, t = lane & 3;
  const int head0 = blockIdx.x * HEADS, heads = heads_all - head0 < HEADS ? heads_all - head0 : HEADS, seq = blockIdx.z;
  const int context = load(contexts + seq), stages = (context + TOKENS - 1) / TOKENS;
  const int begin = (int)((u64)stages * blockIdx.y / gridDim.y), end = (int)((u64)stages * (blockIdx.y + 1) / gridDim.y);
  const int* table = tables + (u64)seq * table_pages;
  float* scores = (float*)(shared + SCORES_AT);

  auto fetch = [&](int step) {
    u8* stage = shared + (step - begin) % STAGES * STAGE_BYTES;
    constexpr int ALL = TOKENS * CHUNKS;
#pragma unroll
    for (int r = 0; r < (ALL + THREADS - 1) / THREADS; ++r) {
      const int v = tid + r * THREADS;
      if (ALL % THREADS && v >= ALL) break;
      const int row = v / CHUNKS, chunk = v % CHUNKS, token = step * TOKENS + row;
      const bool wanted = token < context;
      const u64 page = wanted ? (u64)load(table + token / PAGE) : 0;
      copy16(stage + row * PITCH + chunk * 16, cache + (page * PAGE + token % PAGE) * DIMS * wanted + chunk * 8 * wanted, wanted);
    }
  };

  u32 query[STEPS_EACH][4];  // this warp's share of the dimensions: steps warp, warp + WARPS, ...
#pragma unroll
  for (int i = 0; i < STEPS_EACH; ++i)
#pragma unroll
    for (int r = 0; r < 4; ++r) {
      const int step = warp + i * WARPS, head = g + (r & 1) * 8, dim = 16 * step + 2 * t + 8 * (r >> 1);
      const bool wanted = step < STEPS && head < heads;
      query[i][r] = wanted ? load((const u32*)(q + ((u64)seq * heads_all + head0 + head) * DIMS + dim)) : 0u;
    }

  float o[PIECES][4], top[2] = {MASKED, MASKED}, total[2] = {0.f, 0.f};
#pragma unroll
  for (int c = 0; c < PIECES; ++c) o[c][0] = o[c][1] = o[c][2] = o[c][3] = 0.f;

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

#pragma unroll
    for (int page = 0; page < PAGES; ++page) {
      float s[2][4] = {{0.f, 0.f, 0.f, 0.f}, {0.f, 0.f, 0.f, 0.f}};
#pragma unroll
      for (int i = 0; i < STEPS_EACH; ++i) {
        const int c = warp + i * WARPS;
        if (c >= STEPS) break;
        u32 b[4];
        const int row = page * PAGE + (lane & 7) + (lane >> 4) * 8;
        load_matrices(b, stage + row * PITCH + (2 * c + (lane >> 3 & 1)) * 16);
        mma_bf16(s[0], query[i], b[0], b[1]);
        mma_bf16(s[1], query[i], b[2], b[3]);
      }
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e)
          scores[(warp * HEADS + g + (e >> 1) * 8) * TOKENS + page * PAGE + 8 * j + 2 * t + (e & 1)] = s[j][e];
    }
    sync_block();  // all shares of the scores are there

    float s[PAGES][2][4], highest[2] = {MASKED, MASKED};  // every warp adds them up for itself
#pragma unroll
    for (int page = 0; page < PAGES; ++page)
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const int head = g + (e >> 1) * 8, token = page * PAGE + 8 * j + 2 * t + (e & 1);
          float v = 0.f;
#pragma unroll
          for (int w = 0; w < WARPS; ++w) v += scores[(w * HEADS + head) * TOKENS + token];
          v = step * TOKENS + token < context ? v * score_scale : MASKED;
          s[page][j][e] = v;
          highest[e >> 1] = v > highest[e >> 1] ? v : highest[e >> 1];
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
      for (int c = 0; c < PIECES; ++c) {
        o[c][2 * h] *= shrink;
        o[c][2 * h + 1] *= shrink;
      }
    }
#pragma unroll
    for (int page = 0; page < PAGES; ++page) {
      u32 p[4];
#pragma unroll
      for (int j = 0; j < 2; ++j)
#pragma unroll
        for (int h = 0; h < 2; ++h) {
          const float low = power2(s[page][j][2 * h] - top[h]), high = power2(s[page][j][2 * h + 1] - top[h]);
          total[h] += low + high;
          p[2 * j + h] = pack_bf16(low, high);
        }
#pragma unroll
      for (int c = 0; c < PIECES; c += 2) {
        u32 b[4];
        const int row = page * PAGE + (lane & 15), column = warp * COLUMNS + (c + (lane >> 4)) * 8;
        load_matrices_transposed(b, stage + row * PITCH + column * 2);
        mma_bf16(o[c], p, b[0], b[1]);
        mma_bf16(o[c + 1], p, b[2], b[3]);
      }
    }
  }
  copies_wait<0>();
#pragma unroll
  for (int h = 0; h < 2; ++h)
    for (int mask = 1; mask < 4; mask *= 2) total[h] += shuffle_xor(total[h], mask);

  constexpr int RECORD = LATENT + 2;  // top, total, values
  const bool split = gridDim.y > 1;
  const u64 records = (u64)gridDim.z * heads_all, record0 = (u64)seq * heads_all + head0;
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    const int head = g + 8 * h;
    if (head >= heads) continue;
    float* mine = parts + (blockIdx.y * records + record0 + head) * RECORD;
    if (split && warp == 0 && t == 0) {
      store_l2(mine, top[h]);
      store_l2(mine + 1, total[h]);
    }
#pragma unroll
    for (int c = 0; c < PIECES; ++c) {
      const int dim = warp * COLUMNS + 8 * c + 2 * t;
      if (split) {
        store_l2(mine + 2 + dim, o[c][2 * h]);
        store_l2(mine + 3 + dim, o[c][2 * h + 1]);
      } else {
        const float share = total[h] > 0.f ? 1.f / total[h] : 0.f;
        store((u32*)(out + (record0 + head) * LATENT + dim), pack_bf16(o[c][2 * h] * share, o[c][2 * h + 1] * share));
      }
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
  for (int e = tid; e < heads * LATENT; e += THREADS) {
    const int head = e / LATENT, dim = e % LATENT;
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
    store(out + (record0 + head) * LATENT + dim, to_bf16(sum > 0.f ? v / sum : 0.f));
  }
}
