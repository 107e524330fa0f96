// Whom a connection counts for.
#pragma once

#include <algorithm>
#include <boost/asio/ip/address.hpp>

namespace pygrade::inline v0_2::server {

// The address as others know it: an IPv4 address that is mapped into IPv6, as a socket of both has it, is that one.
inline boost::asio::ip::address plain_address(const boost::asio::ip::address& address) {
  if (address.is_v6() && address.to_v6().is_v4_mapped())
    return boost::asio::ip::make_address_v4(boost::asio::ip::v4_mapped, address.to_v6());
  return address;
}

// The address, of IPv6 its first 64 bits: one client has as many addresses of those as it wants.
inline boost::asio::ip::address client_of(const boost::asio::ip::address& address) {
  const auto plain = plain_address(address);
  if (!plain.is_v6()) return plain;
  auto bytes = plain.to_v6().to_bytes();
  std::fill(bytes.begin() + 8, bytes.end(), std::uint8_t{0});
  return boost::asio::ip::address_v6(bytes);
}

}  // namespace pygrade::inline v0_2::server
