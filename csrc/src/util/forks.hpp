// Number of forks from the first process to this one: what a parent opened is of no use to its child.
#pragma once

namespace pygrade::inline v0_2::detail {
int fork_count();
}  // namespace pygrade::inline v0_2::detail
