// What the process is told from outside.
#pragma once

#include <atomic>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <thread>

#include "frames.h"

namespace cospipe {

// Takes SIGINT, SIGTERM and SIGHUP in a thread of its own. Make it before any other thread: these inherit that the
// signals are not theirs. Until somebody answers, SIGINT and SIGTERM end the process at once.
class Signals {
 public:
  Signals();
  ~Signals();
  Signals(const Signals&) = delete;
  Signals& operator=(const Signals&) = delete;

  // From now on the first SIGINT or SIGTERM requests the stop, only a second one ends the process at once; SIGHUP
  // calls `hang_up`. `now_and_then` is called twice a second.
  void answer(Stop& stop, std::function<void()> hang_up, std::function<void()> now_and_then);
  // Answers no more; when it returns, nothing that was given to answer() is used any longer.
  void end();

  // SIGINT or SIGTERM when one came, else 0.
  int interrupted_by() const { return interrupted_by_.load(); }

 private:
  void wait();
  void take();
  void interrupt(int number);
  void answer_hang_ups();

  int signals_ = -1;
  Stop is_over_;
  std::atomic<int> interrupted_by_{0};
  std::mutex mutex_;  // of what follows
  Stop* stop_ = nullptr;
  std::function<void()> hang_up_, now_and_then_;
  bool has_hung_up_ = false, has_ended_ = false;
  std::condition_variable something_happened_;
  std::thread thread_;
  std::thread hang_ups_;  // of its own: what SIGHUP asks for may take long, and SIGINT must not wait
};

}  // namespace cospipe
