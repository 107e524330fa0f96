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
  // A line of the file for each token; blank lines and those that begin with # are none. NAME=TOKEN is one of a tenant,
  // if NAME is; each must have one. The variable PYGRADE_TOKEN holds one more. Without any everybody may ask.
  // std::invalid_argument if the file holds none.
  Tokens(std::optional<std::filesystem::path> file, std::vector<std::string> tenants);

  // Reads the file again. std::invalid_argument if it holds no token, and the earlier ones stay.
  void reload();

  // Whether a header Authorization is "Bearer TOKEN", or "Basic" with a token as password, as browsers send it; then
  // `tenant` is whose token it is, nothing of one without a name.
  bool accept(std::string_view authorization, std::optional<std::size_t>& tenant) const;

  bool required() const;

 private:
  const std::optional<std::filesystem::path> file_;
  const std::vector<std::string> tenants_;
  struct Known {
    std::string digest;  // SHA-256
    std::optional<std::size_t> tenant;
  };
  mutable std::mutex mutex_;  // guards known_
  std::vector<Known> known_;
};
}  // namespace pygrade::inline v0_2::server
