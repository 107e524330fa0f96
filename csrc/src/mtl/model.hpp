#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "mtl/network.hpp"
#include "pygrade/file_content.hpp"

namespace pygrade::inline v0_2::detail {
struct MtlModel {
  std::vector<std::string> tasks, dense, ids;
  std::string features, schema_hash;
  MtlNetwork network;

  // Keeps values that the network points to.
  template <class T>
  const T* keep(std::vector<T> values) {
    auto kept = std::make_shared<const std::vector<T>>(std::move(values));
    const T* data = kept->data();
    kept_.push_back(std::move(kept));
    return data;
  }

 private:
  std::vector<std::shared_ptr<const void>> kept_;
};

// Fills `model` from the content of mtl.json and mtl.safetensors; `name` is the directory in messages. ArtifactError
// names file and fault.
void read_mtl(std::string_view json, const FileContent& tensors, std::string_view name, MtlModel& model);
}  // namespace pygrade::inline v0_2::detail
