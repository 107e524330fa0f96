// The first stage of ranking: the user's vector and the items nearest to it, from what pygrade.prerank.Prerank saves.
//
// pygrade/prerank/towers.py documents the towers, index.py scores and order.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/file_content.hpp"
#include "pygrade/policy.hpp"

namespace pygrade::inline v0_2 {
// Parameters of a user tower, as pygrade.prerank.TwoTower holds it. Only read while `UserTower::make` runs.
struct UserTowerParameters {
  std::size_t width = 0;                                        // numbers in a vector
  std::size_t hidden = 0;                                       // width of the hidden layer
  std::size_t field_embedding = 0;                              // width of the embedding of a categorical feature
  std::size_t length = 0;                                       // L of the sequences
  std::span<const std::int64_t> item_ids = {};                  // [V] items with an embedding, ascending
  std::span<const float> item_table = {};                       // [V + 1, width - 1]; row 0: all other items
  std::span<const float> request_mean = {}, request_std = {};   // [Du]; std 0: left out
  std::span<const std::span<const float>> field_tables = {};    // [Fu] of [its size, field_embedding]
  std::span<const float> hidden_weight = {}, hidden_bias = {};  // [hidden, Du + Fu · field_embedding + width - 1]
  std::span<const float> output_weight = {}, output_bias = {};  // [width - 1, hidden]
};

// The vectors of requests. Immutable: any number of threads may use one at once. A vector has the same bits on every
// instruction set.
class PYGRADE_API UserTower {
 public:
  // Copies the parameters. std::invalid_argument names one that does not fit the others or is not finite.
  static std::shared_ptr<const UserTower> make(const UserTowerParameters& parameters);
  ~UserTower();

  std::size_t width() const;
  std::size_t request_dense() const;  // Du
  std::size_t request_ids() const;    // Fu
  std::size_t length() const;         // L

  // The vector[width] of request_dense[Du] (as measured, NaN: unknown), request_ids[Fu] (out of range: unknown) and
  // sequence[L] of items (unknown ones and -1 are skipped).
  void user_vector(std::span<const float> request_dense, std::span<const std::int64_t> request_ids,
                   std::span<const std::int64_t> sequence, std::span<float> vector) const;

 private:
  UserTower();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// An index as it lies in files, to be used in place: whole blocks of 16 items.
struct ItemIndexLayout {
  std::size_t width = 0;                        // numbers in a vector
  std::span<const std::int64_t> item_ids = {};  // [blocks, 16]; ascending, -1 past the end
  std::span<const float> vectors = {};          // [blocks, width, 16]
};

// Items and their vectors. Immutable: any number of threads may use one at once. A search scores all items that are
// eligible; a result has the same bits on every instruction set.
class PYGRADE_API ItemIndex {
 public:
  // item_ids[m], ascending from 0 on, and their vectors[m, width], which are copied. std::invalid_argument for others.
  static std::shared_ptr<const ItemIndex> make(std::span<const std::int64_t> item_ids, std::span<const float> vectors,
                                               std::size_t width);
  // Takes what `layout()` gave, kept by `owner`; copied if owner is null or its vectors are not aligned to 64 bytes.
  static std::shared_ptr<const ItemIndex> make(const ItemIndexLayout& layout, std::shared_ptr<const void> owner);
  ~ItemIndex();

  std::size_t width() const;
  std::size_t size() const;        // items
  ItemIndexLayout layout() const;  // views of this index
  bool has(std::int64_t item_id) const;

  // The best items of a vector[width], at most items.size(): best first, ties by ascending id. `seen`: ids to leave
  // out, in any order; `eligible`: the only ids to return, in any order, or nothing. Ids that are not in the index mean
  // nothing. Returns how many there are; that many items are written, and scores if there is room for any.
  std::size_t search(std::span<const float> vector, std::span<const std::int64_t> seen,
                     std::optional<std::span<const std::int64_t>> eligible, std::span<std::int64_t> items,
                     std::span<float> scores = {}) const;
  // Searches for vectors[R, width] with the ids `seen` of each, which share the eligible ones: items and scores [R, n],
  // filled with -1 and -infinity past the end.
  void search_all(std::span<const float> vectors, std::span<const std::span<const std::int64_t>> seen,
                  std::optional<std::span<const std::int64_t>> eligible, std::span<std::int64_t> items,
                  std::span<float> scores) const;

 private:
  ItemIndex();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A tower and an index that belong together. Immutable: any number of threads may use one at once. Scratch memory
// belongs to the thread and is reused.
class PYGRADE_API Prerank {
 public:
  // A directory that Prerank.save wrote, or the content of its files, which an index keeps and uses in place unless it
  // is borrowed. ArtifactError names file and fault.
  static std::shared_ptr<const Prerank> load(const std::string& directory);
  static std::shared_ptr<const Prerank> parse(std::string_view json, const FileContent& safetensors,
                                              std::string_view name = "prerank");
  // std::invalid_argument if their widths differ, or one is null.
  static std::shared_ptr<const Prerank> make(std::shared_ptr<const UserTower> tower,
                                             std::shared_ptr<const ItemIndex> index, std::string schema_hash = "");
  ~Prerank();

  const std::string& schema_hash() const;  // of the feature schema; "" if none was stated
  const std::shared_ptr<const UserTower>& tower() const;
  const std::shared_ptr<const ItemIndex>& index() const;
  std::size_t width() const;  // numbers in a vector
  std::size_t num_items() const;

  // See UserTower and ItemIndex.
  void user_vector(std::span<const float> request_dense, std::span<const std::int64_t> request_ids,
                   std::span<const std::int64_t> sequence, std::span<float> vector) const;
  std::size_t search(std::span<const float> vector, std::span<const std::int64_t> seen,
                     std::optional<std::span<const std::int64_t>> eligible, std::span<std::int64_t> items,
                     std::span<float> scores = {}) const;

 private:
  Prerank();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
}  // namespace pygrade::inline v0_2
