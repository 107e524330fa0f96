// The pages of an LMDB file, read as a file: a page beyond its end is an answer and not a SIGBUS.
#pragma once

#include <cstddef>
#include <cstdint>

namespace pygrade::detail {

// Whether every page that the transaction `id` can reach lies in the first `size` bytes of the file and is what the
// tree says. The transaction must stay open meanwhile. False for a layout that this build cannot read.
bool lmdb_is_whole(int file, std::size_t size, std::uint64_t id);

}  // namespace pygrade::detail
