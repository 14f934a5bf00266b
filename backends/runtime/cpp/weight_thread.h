// The thread that makes the weights of another adapter while the stages run.
#pragma once

#include <functional>
#include <future>
#include <thread>

#include "link.h"

namespace cospipe {

// Does one thing after the other in a thread of its own, where TVM's pool neither pins the caller's nor takes the cores
// of the stages. It is kept: the end of a thread that has used TVM takes longer than the weights of a small network.
class WeightThread {
 public:
  WeightThread() : thread_([this] { work(); }) {}
  ~WeightThread() {
    tasks_.close();
    thread_.join();
  }
  WeightThread(const WeightThread&) = delete;
  WeightThread& operator=(const WeightThread&) = delete;

  // Waits until it is done; throws what it throws.
  void run(std::function<void()> task) {
    std::packaged_task<void()> packaged(std::move(task));
    std::future<void> done = packaged.get_future();
    tasks_.put(std::move(packaged));
    done.get();
  }

 private:
  void work() {
    while (std::optional<std::packaged_task<void()>> task = tasks_.take()) (*task)();
  }

  Link<std::packaged_task<void()>> tasks_{1};
  std::thread thread_;
};

}  // namespace cospipe
