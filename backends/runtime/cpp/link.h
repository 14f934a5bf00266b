// What stages hand frames over with: a queue with room for a few, which can be closed.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <deque>
#include <mutex>
#include <optional>
#include <utility>

namespace cospipe {

// How many items waited in a link at the moments when one was taken, that one not counted.
struct WaitingCounts {
  uint64_t taken = 0, sum = 0, most = 0;

  double mean() const { return taken == 0 ? 0.0 : static_cast<double>(sum) / static_cast<double>(taken); }
};

// Tells the core that this thread only waits for another one.
inline void pause_core() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield" ::: "memory");
#endif
}

// A queue between threads; closing it ends every wait at once.
template <typename Item>
class Link {
 public:
  // Whoever brings one item more than there is room for waits until another was taken.
  explicit Link(size_t room) : room_(room) {}

  // Adds an item once there is room; returns false, without it, when the link is closed.
  bool put(Item item) {
    std::unique_lock<std::mutex> lock(mutex_);
    waiting_to_put_ += 1;
    has_room_.wait(lock, [this] { return items_.size() < room_ || is_closed_; });
    waiting_to_put_ -= 1;
    if (is_closed_) return false;
    items_.push_back(std::move(item));
    something_to_see_.store(true, std::memory_order_release);
    const bool someone_sleeps = waiting_to_take_ > 0;
    lock.unlock();
    if (someone_sleeps) has_item_.notify_one();
    return true;
  }

  // Waits until there is room; returns false when the link is closed. The room stays when nobody else puts items in.
  bool wait_for_room() {
    std::unique_lock<std::mutex> lock(mutex_);
    waiting_to_put_ += 1;
    has_room_.wait(lock, [this] { return items_.size() < room_ || is_closed_; });
    waiting_to_put_ -= 1;
    return !is_closed_;
  }

  // Takes the oldest item once there is one; nothing when the link is closed and none is left. A sleeping thread
  // takes 20 us and more to wake up, so it looks for an item for `spin` first: only worth while on a core of its own.
  std::optional<Item> take(std::chrono::microseconds spin = std::chrono::microseconds(0)) {
    look_for_item(spin);
    std::unique_lock<std::mutex> lock(mutex_);
    waiting_to_take_ += 1;
    has_item_.wait(lock, [this] { return !items_.empty() || is_closed_; });
    waiting_to_take_ -= 1;
    if (items_.empty()) return std::nullopt;
    std::optional<Item> item(std::move(items_.front()));
    items_.pop_front();
    something_to_see_.store(!items_.empty(), std::memory_order_release);
    count_waiting();
    const bool someone_sleeps = waiting_to_put_ > 0;
    lock.unlock();
    if (someone_sleeps) has_room_.notify_one();
    return item;
  }

  // Ends every wait, now and later, and lets items go that nobody has taken.
  void close() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      items_.clear();
    }
    end();
  }

  // Takes no further items and ends every wait; those that are there can still be taken.
  void end() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_closed_ = true;
      something_to_see_.store(true, std::memory_order_release);
    }
    has_item_.notify_all();
    has_room_.notify_all();
  }

  WaitingCounts waiting() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return waiting_;
  }

  size_t size() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    return items_.size();
  }

 private:
  void look_for_item(std::chrono::microseconds spin) const {
    if (spin.count() == 0) return;
    const auto until = std::chrono::steady_clock::now() + spin;
    while (!something_to_see_.load(std::memory_order_acquire) && std::chrono::steady_clock::now() < until)
      pause_core();
  }

  void count_waiting() {
    waiting_.taken += 1;
    waiting_.sum += items_.size();
    waiting_.most = std::max<uint64_t>(waiting_.most, items_.size());
  }

  const size_t room_;
  mutable std::mutex mutex_;
  std::condition_variable has_item_, has_room_;
  std::deque<Item> items_;
  std::atomic<bool> something_to_see_{false};
  int waiting_to_take_ = 0, waiting_to_put_ = 0;
  bool is_closed_ = false;
  WaitingCounts waiting_;
};

}  // namespace cospipe
