// Whom a connection counts for.
#pragma once

#include <boost/asio/ip/address.hpp>

namespace pygrade::inline v0_2::server {
// An IPv4 address that is mapped into IPv6, as a socket of both has it, as IPv4.
inline boost::asio::ip::address plain_address(const boost::asio::ip::address& address) {
  namespace ip = boost::asio::ip;
  const bool mapped = address.is_v6() && address.to_v6().is_v4_mapped();
  return mapped ? ip::address(ip::make_address_v4(ip::v4_mapped, address.to_v6())) : address;
}

// A plain address, of IPv6 its first 64 bits: one client has as many addresses of those as it needs.
inline boost::asio::ip::address client_of(const boost::asio::ip::address& address) {
  if (!address.is_v6()) return address;
  auto bytes = address.to_v6().to_bytes();
  for (std::size_t i = 8; i < bytes.size(); ++i) bytes[i] = 0;
  return boost::asio::ip::address_v6(bytes);
}
}  // namespace pygrade::inline v0_2::server
