// How often the processes from the first one to this one were forked: what a parent opened is of no use to its child.
#pragma once

namespace pygrade::inline v0_2::detail {

int fork_count();

}  // namespace pygrade::inline v0_2::detail
