// Compiled once per instruction set; see ../isa.hpp for the rules.
//
// Products and sums are separate operations (no fma) in a fixed order, so that every instruction set has the same bits.
#include "doubles.hpp"
#include "serving/correction.hpp"

namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE {
namespace {
void gram_moments(const GramBlock& task, std::int64_t begin, std::int64_t end) {
  const std::int64_t size = task.u_count;
  for (std::int64_t r = begin; r < end; ++r) {
    for (std::int64_t i = 0; i < task.z_count; ++i) task.columns[i * gram_requests + r] = task.z[r * task.z_count + i];
    double* const moments = task.moments + r * task.width;
    for (std::int64_t i = 0; i < task.width; ++i) moments[i] = 0.0;
    for (std::int64_t row = task.offsets[r]; row < task.offsets[r + 1]; ++row) {
      const double* u = task.u + row * size;
      double* sum = moments;
      for (std::int64_t a = 0; a < size; ++a) {
        const double weighted = task.h[row] * u[a];
        for (std::int64_t b = a; b < size; ++b) sum[b - a] += weighted * u[b];
        sum += size - a;
      }
    }
  }
}

// The sums of gram_pairs pairs, `vectors` parts of their rows.
template <int vectors>
PYGRADE_INLINE void add_products(const GramBlock& task, const double* products, std::int64_t column, double* sums) {
  Part sum[gram_pairs][vectors];
  for (auto& row : sum)
    for (auto& part : row) part = fill_part(0.0);
  for (std::int64_t r = 0; r < task.requests; ++r) {
    Part moment[vectors];
#pragma GCC unroll 8
    for (int v = 0; v < vectors; ++v) moment[v] = load_part(task.moments + r * task.width + column + v * part_lanes);
#pragma GCC unroll 8
    for (int k = 0; k < gram_pairs; ++k) {
      const Part product = fill_part(products[k * gram_requests + r]);
#pragma GCC unroll 8
      for (int v = 0; v < vectors; ++v) sum[k][v] = sum[k][v] + product * moment[v];
    }
  }
  for (int k = 0; k < gram_pairs; ++k)
    for (int v = 0; v < vectors; ++v) {
      double* to = sums + k * task.width + column + v * part_lanes;
      store_part(to, load_part(to) + sum[k][v]);
    }
}

void gram_sums(const GramBlock& task, std::int64_t begin, std::int64_t end) {
  constexpr int wide = part_lanes == 8 ? 5 : 2;  // parts that leave room for gram_pairs rows of sums in the registers
  alignas(64) double products[gram_pairs * gram_requests];
  for (std::int64_t group = begin; group < end; ++group) {
    for (std::int64_t k = 0; k < gram_pairs; ++k) {
      const std::int32_t* pair = task.pairs + (group * gram_pairs + k) * 2;
      const double* a = task.columns + pair[0] * gram_requests;
      const double* b = task.columns + pair[1] * gram_requests;
      for (std::int64_t r = 0; r < task.requests; ++r) products[k * gram_requests + r] = a[r] * b[r];
    }
    double* sums = task.sums + group * gram_pairs * task.width;
    std::int64_t column = 0;
    for (; column + wide * part_lanes <= task.width; column += wide * part_lanes)
      add_products<wide>(task, products, column, sums);
    if (wide > 4)
      for (; column + 4 * part_lanes <= task.width; column += 4 * part_lanes)
        add_products<4>(task, products, column, sums);
    if (wide > 2)
      for (; column + 2 * part_lanes <= task.width; column += 2 * part_lanes)
        add_products<2>(task, products, column, sums);
    for (; column < task.width; column += part_lanes) add_products<1>(task, products, column, sums);
  }
}
}  // namespace

const GramKernels gram_kernels{&gram_moments, &gram_sums};
}  // namespace pygrade::inline v0_2::detail::PYGRADE_ISA_NAMESPACE
