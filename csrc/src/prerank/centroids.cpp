// Inverted lists: k-means, and the nearest centroid of a vector. |v - c|^2 is smallest where <v, c> - |c|^2 / 2 is
// largest, which is a score of [v, 1] under [c, -|c|^2 / 2]: the kernels of the search find it, with the same bits on
// every instruction set and any number of threads.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "prerank/prerank.hpp"
#include "util/fpenv.hpp"
#include "util/parallel.hpp"
#include "util/scratch.hpp"

namespace pygrade::inline v0_2 {

namespace detail {

namespace {

std::vector<float> with_half_norms(std::span<const float> centroids, std::size_t width) {
  std::vector<float> rows;
  rows.reserve(centroids.size() / width * (width + 1));
  for (std::size_t at = 0; at < centroids.size(); at += width) {
    double square = 0.0;
    for (std::size_t d = 0; d < width; ++d) {
      const auto number = static_cast<double>(centroids[at + d]);
      square += number * number;  // exact in double; the sum is in order
      rows.push_back(centroids[at + d]);
    }
    rows.push_back(static_cast<float>(-0.5 * square));
  }
  return rows;
}

}  // namespace

void fill_block(std::span<const float> vectors, std::size_t width, std::size_t first, float* block) {
  const std::size_t rows = vectors.size() / width;
  for (std::size_t d = 0; d < width; ++d)
    for (std::size_t i = 0; i < item_block; ++i)
      block[d * item_block + i] = first + i < rows ? vectors[(first + i) * width + d] : 0.0f;
}

Centroids::Centroids(std::span<const float> centroids, std::size_t width)
    : width_(width), count_(centroids.size() / width), blocks_(whole_blocks(count_) * (width + 1)) {
  const std::vector<float> rows = with_half_norms(centroids, width);
  for (std::size_t first = 0; first < count_; first += item_block)
    fill_block(rows, width + 1, first, blocks_.data() + first * (width + 1));
}

void Centroids::assign(std::span<const float> vectors, std::span<std::int32_t> nearest, int threads) const {
  const auto& kernels = PYGRADE_KERNELS(prerank_kernels);
  const std::size_t stride = whole_blocks(count_) + select_slack;
  parallel_for(static_cast<std::int64_t>(nearest.size()), threads, 64, [&](std::int64_t begin, std::int64_t end) {
    const Scratch scratch((select_rows + 1) * stride + width_ + 1);
    float* const vector = scratch.data() + (select_rows + 1) * stride;
    vector[width_] = 1.0f;
    for (auto i = static_cast<std::size_t>(begin); i < static_cast<std::size_t>(end); ++i) {
      std::copy_n(vectors.begin() + static_cast<std::ptrdiff_t>(i * width_), width_, vector);
      kernels.scores(vector, static_cast<std::int64_t>(width_ + 1), blocks_.data(),
                     static_cast<std::int64_t>(whole_blocks(count_) / item_block), scratch.data());
      nearest[i] = *kernels.best(scratch.data(), static_cast<std::int64_t>(count_), 1, scratch.data() + stride,
                                 static_cast<std::int64_t>(stride));
    }
  });
}

}  // namespace detail

std::vector<float> fit_centroids(std::span<const float> vectors, std::size_t width, std::size_t nlist, int threads) {
  constexpr std::size_t passes = 10, most_per_centroid = 64;
  if (width < 1) throw std::invalid_argument("width is 0; want at least 1");
  const std::size_t count = vectors.size() / width;
  detail::check_numbers(vectors, count * width, "vectors");
  if (nlist < 1 || nlist > count)
    throw std::invalid_argument("nlist is " + std::to_string(nlist) + "; want from 1 to the number of vectors, " +
                                std::to_string(count));
  const detail::FloatEnvironment environment;
  const auto rows_at_distance = [&](std::size_t rows) {
    std::vector<float> taken;
    taken.reserve(rows * width);
    for (std::size_t r = 0; r < rows; ++r) {
      const auto row = vectors.subspan(r * count / rows * width, width);
      taken.insert(taken.end(), row.begin(), row.end());
    }
    return taken;
  };
  const std::size_t sampled = std::min(count, nlist * most_per_centroid);
  const std::vector<float> sample = rows_at_distance(sampled);
  std::vector<float> centroids = rows_at_distance(nlist);
  std::vector<std::int32_t> nearest(sampled);
  std::vector<double> sums(nlist * width);
  std::vector<std::size_t> sizes(nlist);
  for (std::size_t pass = 0; pass < passes; ++pass) {
    detail::Centroids(centroids, width).assign(sample, nearest, threads);
    std::ranges::fill(sums, 0.0);
    std::ranges::fill(sizes, 0);
    for (std::size_t r = 0; r < sampled; ++r) {
      const auto list = static_cast<std::size_t>(nearest[r]);
      ++sizes[list];
      for (std::size_t d = 0; d < width; ++d) sums[list * width + d] += static_cast<double>(sample[r * width + d]);
    }
    for (std::size_t c = 0; c < nlist; ++c)
      for (std::size_t d = 0; d < width && sizes[c] > 0; ++d)
        centroids[c * width + d] = static_cast<float>(sums[c * width + d] / static_cast<double>(sizes[c]));
    for (std::size_t c = 0; c < nlist; ++c) {  // one that got nothing takes a half of the largest
      if (sizes[c] > 0) continue;
      const auto largest = static_cast<std::size_t>(std::ranges::max_element(sizes) - sizes.begin());
      if (sizes[largest] < 2) break;
      for (std::size_t d = 0; d < width; ++d) {
        const float number = centroids[largest * width + d], shift = (d % 2 == 0 ? 0x1p-10f : -0x1p-10f) * number;
        centroids[c * width + d] = number + shift;
        centroids[largest * width + d] = number - shift;
      }
      sizes[c] = sizes[largest] / 2;
      sizes[largest] -= sizes[c];
    }
  }
  return centroids;
}

}  // namespace pygrade::inline v0_2
