// Records of histories, as bytes of a store.
//
//     user  1 | T | rows of: time, request, item, category (8 bytes each), events (2), group (1), predicted (4 T)
//     item  1 | T | first, epoch, total, recent[0], recent[1], the number of steps, and of each its number and sums;
//           whole numbers by 7 bits (LEB128) after a zigzag; sums begin with 1, absent ones are 0
//
// Little endian. A record of no bytes is that of somebody who was forgotten.
#pragma once

#include <string>
#include <string_view>

#include "pygrade/history.hpp"

namespace pygrade::inline v0_2::detail {
void write_record(const History::User& user, std::size_t tasks, std::string& record);
void write_record(const History::Item& item, std::size_t tasks, std::string& record);

// Null data: nothing was stored. DamagedRecordError that names the table for bytes that `write_record` did not write.
void read_record(std::string_view record, std::string_view table, std::size_t tasks, History::User& user);
void read_record(std::string_view record, std::string_view table, std::size_t tasks, History::Item& item);
}  // namespace pygrade::inline v0_2::detail
