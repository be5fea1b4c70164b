// SPDX-License-Identifier: Apache-2.0
#include "tests/peers/free_latent.h"
#include "base/team.h"
#include <cstdint>
#include <cstring>
#include <map>
#include <vector>

namespace
{

// Of a thread, for one head of one sequence.
struct room {
    std::vector<char> q, kv, out;
    std::vector<const void *> blocks;
};

struct job {
    struct free_expansion *e;
    const matmul_args *queries, *outputs;
    const attention_args *attention;
    int first;
    const char *to_keys; // packed [R,Dn] of each head
};

const char *at(const void *array, size_t i, enum dtype type)
{
    return static_cast<const char *>(array) + i * dtype_size(type);
}

} // namespace

struct free_expansion {
    struct device *dev;
    struct free_worker *const *workers;
    std::vector<room> rooms;                        // one a rank
    std::map<const void *, std::vector<char>> keys; // by the weights of queries

    // The weights of queries [Dn,R] of each head, the other way.
    const char *to_keys(const matmul_args &w)
    {
        std::vector<char> &out = keys[w.b];
        if (!out.empty())
            return out.data();
        const size_t size = dtype_size(w.b_type);
        const size_t from = matmul_packed_size(dev, w.k, w.n) * size;
        const size_t to = matmul_packed_size(dev, w.n, w.k) * size;
        std::vector<char> plain(static_cast<size_t>(w.k) * static_cast<size_t>(w.n) * size);
        out.resize(static_cast<size_t>(w.batch) * to);
        for (size_t h = 0; h < static_cast<size_t>(w.batch); h++) {
            matmul_args head = w;
            head.b = static_cast<const char *>(w.b) + h * from;
            free_unpack(&head, plain.data());
            pack_args p = {};
            p.b = plain.data();
            p.ldb = static_cast<size_t>(w.n);
            p.k = w.n;
            p.n = w.k;
            p.count = 1;
            p.transposed = true;
            p.out = out.data() + h * to;
            p.b_type = p.out_type = w.b_type;
            dev->k->matmul_pack(dev, &p);
        }
        return out.data();
    }
};

namespace
{

// Keys and values of a block of a sequence: rows of Dn + Dr + Dv in out.
void expand_block(const job &j, struct device *dev, const void *block, int rows, int head,
                  char *out)
{
    const attention_args &a = *j.attention;
    const matmul_args &o = *j.outputs;
    const int R = a.shape.Dv, Dr = a.shape.Dk - R, Dn = j.queries->k, row = Dn + Dr + o.n;
    const size_t size = dtype_size(a.type), h = static_cast<size_t>(head);
    matmul_args p = {};
    p.a = block;
    p.lda = static_cast<size_t>(a.shape.Dk);
    p.b = j.to_keys + h * matmul_packed_size(dev, R, Dn) * size;
    p.c = out;
    p.ldc = static_cast<size_t>(row);
    p.m = rows;
    p.n = Dn;
    p.k = R;
    p.batch = 1;
    p.a_type = p.b_type = p.c_type = a.type;
    dev->k->matmul(dev, &p);
    p.b = static_cast<const char *>(o.b) + h * matmul_packed_size(dev, R, o.n) * size;
    p.c = out + static_cast<size_t>(Dn + Dr) * size;
    p.n = o.n;
    dev->k->matmul(dev, &p);
    for (size_t i = 0; i < static_cast<size_t>(rows); i++)
        std::memcpy(out + (i * static_cast<size_t>(row) + static_cast<size_t>(Dn)) * size,
                    at(block, i * p.lda + static_cast<size_t>(R), a.type),
                    static_cast<size_t>(Dr) * size);
}

void attend(const job &j, struct device *dev, room &r, const attention_seq &seq, int head)
{
    const attention_args &a = *j.attention;
    const size_t R = static_cast<size_t>(a.shape.Dv), Dk = static_cast<size_t>(a.shape.Dk);
    const size_t Dn = static_cast<size_t>(j.queries->k), Dr = Dk - R, size = dtype_size(a.type);
    const size_t Dv = static_cast<size_t>(j.outputs->n), row = Dn + Dr + Dv;
    const size_t len = static_cast<size_t>(seq.len), h = static_cast<size_t>(head);
    const int keys = seq.pos + seq.len, blocks = (keys + ATTENTION_BLOCK - 1) / ATTENTION_BLOCK;
    r.kv.resize(static_cast<size_t>(blocks) * ATTENTION_BLOCK * row * size);
    r.q.resize(len * (Dn + Dr) * size);
    r.out.resize(len * Dv * size);
    r.blocks.clear();
    for (int b = 0; b < blocks; b++) {
        const int left = keys - b * ATTENTION_BLOCK;
        char *to = r.kv.data() + static_cast<size_t>(b) * ATTENTION_BLOCK * row * size;
        expand_block(j, dev, a.kv_blocks[seq.block + b],
                     left < ATTENTION_BLOCK ? left : ATTENTION_BLOCK, head, to);
        r.blocks.push_back(to);
    }
    for (size_t i = 0; i < len; i++) {
        const size_t t = static_cast<size_t>(seq.query) + i;
        char *to = r.q.data() + i * (Dn + Dr) * size;
        std::memcpy(to, at(j.queries->a, t * j.queries->lda + h * j.queries->stride_a, a.type),
                    Dn * size);
        std::memcpy(to + Dn * size,
                    at(a.q, (t * static_cast<size_t>(a.shape.H) + h) * Dk + R, a.type), Dr * size);
    }
    const attention_seq one = {0, seq.len, seq.pos, 0};
    attention_args s = a;
    s.q = r.q.data();
    s.kv_blocks = r.blocks.data();
    s.seqs = &one;
    s.shape.H = s.shape.kv_heads = 1;
    s.shape.Dk = s.shape.value_at = static_cast<int>(Dn + Dr);
    s.shape.Dv = j.outputs->n;
    s.num_seqs = 1;
    s.T = seq.len;
    s.out = r.out.data();
    s.lse = nullptr;
    dev->k->attention(dev, &s);
    for (size_t i = 0; i < len; i++)
        std::memcpy(const_cast<char *>(at(j.outputs->c,
                                          (static_cast<size_t>(seq.query) + i) * j.outputs->ldc +
                                              h * j.outputs->stride_c,
                                          a.type)),
                    r.out.data() + i * Dv * size, Dv * size);
}

void share(void *arg, int rank, int size)
{
    const job &j = *static_cast<job *>(arg);
    const size_t me = static_cast<size_t>(rank);
    const int H = j.attention->shape.H;
    int begin, end;
    team_share((j.attention->num_seqs - j.first) * H, 1, rank, size, &begin, &end);
    for (int i = begin; i < end; i++)
        attend(j, free_worker_device(j.e->workers[me]), j.e->rooms[me],
               j.attention->seqs[j.first + i / H], i % H);
}

} // namespace

struct free_expansion *free_expansion_open(struct device *dev, struct free_worker *const *workers)
{
    free_expansion *e = new free_expansion;
    e->dev = dev;
    e->workers = workers;
    e->rooms.resize(static_cast<size_t>(team_size(dev->team)));
    return e;
}

void free_expansion_close(struct free_expansion **e)
{
    delete *e;
    *e = nullptr;
}

int free_expansion_run(struct free_expansion *e, const struct matmul_args *queries,
                       const struct attention_args *attention, int first,
                       const struct matmul_args *outputs)
{
    job j = {e, queries, outputs, attention, first, e->to_keys(*queries)};
    team_run(e->dev->team, share, &j);
    return 0;
}
