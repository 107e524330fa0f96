#include "admission.hpp"

#include <algorithm>
#include <cmath>

namespace pygrade::inline v0_2::server {
namespace {
constexpr double burst = 20e-3;  // seconds
constexpr std::chrono::milliseconds relief{1000};
constexpr double memory = 1.0 / 64.0;  // weight of the newest answer
constexpr double most_growth = 4.0;    // of an answer over the mean: one that lost its processor says little
constexpr std::size_t least = 8;       // that may wait in any case
constexpr double patience = 1.5;       // of the usual time, while there is a standing queue
constexpr std::uint32_t enough = 128, kept = 4096;

double seconds_between(Clock::time_point begin, Clock::time_point end) {
  return std::chrono::duration<double>(end - begin).count();
}
}  // namespace

void UsualTime::add(double seconds) {
  const double octaves = std::log2(std::max(seconds * 1e6, 1.0));
  ++bins_[std::min(static_cast<std::size_t>(4.0 * octaves), bins_.size() - 1)];
  if (++count_ % enough != 0) return;
  std::uint32_t above = 0;
  std::size_t bin = bins_.size();
  while (bin > 0 && above <= count_ / 100) above += bins_[--bin];
  percentile_ = 1e-6 * std::exp2(static_cast<double>(bin + 1) / 4.0);
  if (count_ < kept) return;
  count_ = 0;
  for (auto& each : bins_) count_ += each /= 2;
}

bool Admission::is_full(double seconds) const {
  return running_ + waiting_ >= threads_ + least && waiting_seconds_ >= seconds * static_cast<double>(threads_);
}

std::size_t Admission::limit(Clock::time_point now) const {
  if (max_requests_ > 0) return max_requests_;
  const double tight = patience * usual_.percentile(), most = now < tight_until_ ? tight : std::max(tight, burst);
  const double waiting = most * static_cast<double>(threads_) / std::max(seconds_, 1e-5);
  return threads_ + std::max(static_cast<std::size_t>(waiting), least);
}

bool Admission::refuse(Clock::time_point now) {
  const double tight = patience * usual_.percentile();
  const bool standing = now < tight_until_ || (waiting_ > 0 && seconds_between(nonempty_since_, now) > burst);
  if (standing && is_full(tight)) tight_until_ = now + relief;
  const bool full = max_requests_ > 0 ? running_ + waiting_ >= max_requests_
                                      : is_full(now < tight_until_ ? tight : std::max(tight, burst));
  shed_ += full;
  return full;
}

Admission::Ticket Admission::enter(Clock::time_point now, double weight) {
  const bool found_free = running_ + waiting_ < threads_;
  const double seconds = weight * std::max(unit_, 1e-6);
  if (waiting_++ == 0) nonempty_since_ = now;
  waiting_seconds_ += seconds;
  return {now, found_free, weight, seconds};
}

std::optional<Admission::Ticket> Admission::admit(Clock::time_point now, double weight) {
  if (refuse(now)) return {};
  return enter(now, weight);
}

void Admission::begin(const Ticket& ticket) {
  waiting_seconds_ = --waiting_ == 0 ? 0.0 : waiting_seconds_ - ticket.seconds;  // without what rounding leaves
  ++running_;
}

void Admission::end(const Ticket& ticket, Clock::time_point begin, Clock::time_point end) {
  --running_;
  const double seconds = seconds_between(begin, end);
  const auto learn = [](double& mean, double value) {
    if (mean == 0.0) mean = value;
    mean += memory * (std::min(value, most_growth * mean) - mean);
  };
  learn(seconds_, seconds);
  learn(unit_, seconds / ticket.weight);
  if (ticket.found_free) usual_.add(seconds_between(ticket.time, end));
}
}  // namespace pygrade::inline v0_2::server
