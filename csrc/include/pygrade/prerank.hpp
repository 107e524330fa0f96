// The first stage of ranking: the user's vector and the items nearest to it, from what pygrade.prerank.Prerank saves.
//
// pygrade/prerank/towers.py documents the towers, index.py scores and order. Exact flat scan; files of faiss graphs
// (HNSW) are refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/export.h"
#include "pygrade/policy.hpp"

namespace pygrade {

// Immutable: any number of threads may use one at once. Scratch memory belongs to the thread and is reused.
class PYGRADE_API Prerank {
 public:
  // A directory that Prerank.save wrote. ArtifactError names file and fault.
  static std::shared_ptr<const Prerank> load(const std::filesystem::path& directory);
  // From the content of the files; `faiss_index` is items.faiss of format version 1.
  static std::shared_ptr<const Prerank> parse(std::string_view json, std::span<const std::byte> safetensors,
                                              std::span<const std::byte> faiss_index = {},
                                              std::string_view name = "prerank");
  ~Prerank();

  const std::string& schema_hash() const;  // of the feature schema; "" if none was stated
  std::size_t width() const;               // numbers in a vector
  std::size_t num_items() const;
  std::span<const std::int64_t> item_ids() const;  // ascending

  // The vector[width] of request_dense[Du] (as measured, NaN: unknown), request_ids[Fu] and sequence[L].
  void user_vector(std::span<const float> request_dense, std::span<const std::int64_t> request_ids,
                   std::span<const std::int64_t> sequence, std::span<float> vector) const;

  // The best items of a vector, at most items.size(): best first, ties by ascending id. `seen`: ids to leave out, in
  // any order; `eligible`: the only ids to return, or nothing. Returns how many there are.
  std::size_t search(std::span<const float> vector, std::span<const std::int64_t> seen,
                     std::optional<std::span<const std::int64_t>> eligible, std::span<std::int64_t> items) const;

 private:
  Prerank();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace pygrade
