// Included before every file of the WebAssembly build, whose standard library has no threads.
#pragma once

namespace std::this_thread {
inline void yield() {}
template <class Duration>
void sleep_for(Duration) {}
}  // namespace std::this_thread
