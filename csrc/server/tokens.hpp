// Who may ask: tokens of a file or of the environment, compared in constant time.
#pragma once

#include <filesystem>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace pygrade::inline v0_2::server {

class Tokens {
 public:
  // A line of the file for each token; blank lines and those that begin with # are none. The variable PYGRADE_TOKEN
  // holds one more. Without any everybody may ask. std::invalid_argument if the file holds none.
  explicit Tokens(std::optional<std::filesystem::path> file);

  // Reads the file again. std::invalid_argument if it holds no token, and the earlier ones stay.
  void reload();

  // True if a header Authorization is "Bearer TOKEN", or "Basic" with a token as password, as browsers send it.
  bool accept(std::string_view authorization) const;

  bool required() const;

 private:
  const std::optional<std::filesystem::path> file_;
  mutable std::mutex mutex_;          // guards digests_
  std::vector<std::string> digests_;  // SHA-256
};

}  // namespace pygrade::inline v0_2::server
