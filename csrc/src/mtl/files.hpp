// The files of a saved model, all of one save: other processes may replace the directory meanwhile.
#pragma once

#include <cstddef>
#include <filesystem>
#include <string>
#include <vector>

namespace pygrade::detail {

struct MtlFiles {
  std::vector<std::byte> json, tensors;
};

// ArtifactMissing or ArtifactError name the file.
MtlFiles read_mtl_files(const std::filesystem::path& directory);

}  // namespace pygrade::detail
