// The multi-task model: probabilities of each kind of feedback, read from what pygrade.mtl.save writes.
//
// pygrade/mtl/network.py documents the network (MMoE, PLE, the funnel between tasks), calibration.py the calibration.
// Every output is one chain of fused multiply-adds in the order of its inputs, so that a row's bits depend on nothing
// but its values: not on the other rows, the instruction set or the number of threads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "pygrade/api.hpp"
#include "pygrade/file_content.hpp"
#include "pygrade/policy.hpp"

namespace pygrade::inline v0_2 {
// Immutable: any number of threads may use one at once. Scratch memory belongs to the thread and is reused.
class PYGRADE_API MultiTaskModel {
 public:
  static constexpr float min_prediction = 1e-6f;

  // A directory that pygrade.mtl.save wrote: mtl.json and mtl.safetensors. ArtifactError names file and fault.
  static std::shared_ptr<const MultiTaskModel> load(const std::string& directory);
  static std::shared_ptr<const MultiTaskModel> parse(std::string_view json, const FileContent& safetensors,
                                                     std::string_view name = "mtl");
  ~MultiTaskModel();

  const std::vector<std::string>& tasks() const;          // T
  const std::vector<std::string>& dense_columns() const;  // D, the request's first
  const std::vector<std::string>& id_columns() const;     // F, the request's first
  const std::string& features() const;                    // hash of the feature schema that it was trained on
  const std::string& schema_hash() const;                 // of tasks, columns and funnel
  std::size_t request_dense() const;                      // dense columns that depend on the request alone
  std::size_t request_ids() const;                        // id columns that do

  // dense[n, D] (NaN: unknown), ids[n, F] → probabilities[n, T] in [1e-6, 1].
  void predict(std::span<const float> dense, std::span<const std::int64_t> ids, std::span<float> probabilities,
               bool calibrated = true, int num_threads = 1) const;

  // Predicts, with the same bits, for rows of one request: its columns request_dense[request_dense()] and
  // request_ids[request_ids()] once, and those of the rows, dense[n, D - request_dense()] and
  // ids[n, F - request_ids()].
  void predict_request(std::span<const float> request_dense, std::span<const std::int64_t> request_ids,
                       std::span<const float> dense, std::span<const std::int64_t> ids, std::span<float> probabilities,
                       bool calibrated = true) const;

 private:
  MultiTaskModel();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};
}  // namespace pygrade::inline v0_2
