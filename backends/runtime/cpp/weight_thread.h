// The thread that makes the weights of another adapter while the stages run.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>
#include <utility>

namespace cospipe {

// Does one thing after the other in a thread of its own, where TVM's pool neither pins the caller's nor takes the cores
// of the stages. It is kept: the end of a thread that has used TVM takes longer than the weights of a small network.
class WeightThread {
 public:
  WeightThread() : thread_([this] { work(); }) {}
  ~WeightThread() {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      is_over_ = true;
    }
    something_changed_.notify_all();
    thread_.join();
  }
  WeightThread(const WeightThread&) = delete;
  WeightThread& operator=(const WeightThread&) = delete;

  // Waits until it is done; throws what it throws. For one caller at a time.
  void run(std::function<void()> task) {
    std::unique_lock<std::mutex> lock(mutex_);
    task_ = std::move(task);
    something_changed_.notify_all();
    something_changed_.wait(lock, [this] { return task_ == nullptr; });
    if (const std::exception_ptr failure = std::exchange(failure_, nullptr)) std::rethrow_exception(failure);
  }

 private:
  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    while (true) {
      something_changed_.wait(lock, [this] { return task_ != nullptr || is_over_; });
      if (is_over_) return;
      lock.unlock();
      std::exception_ptr failure = failure_of(task_);
      lock.lock();
      failure_ = std::exchange(failure, nullptr);  // the caller alone has it: it goes when the caller is done with it
      task_ = nullptr;
      something_changed_.notify_all();
    }
  }

  static std::exception_ptr failure_of(const std::function<void()>& task) {
    try {
      task();
    } catch (...) {
      return std::current_exception();
    }
    return nullptr;
  }

  std::mutex mutex_;
  std::condition_variable something_changed_;
  std::function<void()> task_;
  std::exception_ptr failure_;
  bool is_over_ = false;
  std::thread thread_;
};

}  // namespace cospipe
