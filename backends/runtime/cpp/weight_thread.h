// The thread that makes the weights of another adapter while the stages run.
#pragma once

#include <condition_variable>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>

namespace cospipe {

// Does one thing after the other in a thread of its own, where TVM's pool neither pins the caller's nor takes the cores
// of the stages. It is kept, and nobody waits for its end: a thread that has used TVM ends only when the other threads of
// its pool have stopped looking for work, which takes them minutes on a busy machine.
class WeightThread {
 public:
  WeightThread() : desk_(std::make_shared<Desk>()) {
    std::thread([desk = desk_] { work(*desk); }).detach();
  }
  ~WeightThread() {
    {
      const std::lock_guard<std::mutex> lock(desk_->mutex);
      desk_->is_over = true;
    }
    desk_->something_changed.notify_all();
  }
  WeightThread(const WeightThread&) = delete;
  WeightThread& operator=(const WeightThread&) = delete;

  // Waits until it is done; throws what it throws. For one caller at a time.
  void run(std::function<void()> task) {
    std::unique_lock<std::mutex> lock(desk_->mutex);
    desk_->task = std::move(task);
    desk_->something_changed.notify_all();
    desk_->something_changed.wait(lock, [this] { return desk_->task == nullptr; });
    if (const std::exception_ptr failure = std::exchange(desk_->failure, nullptr)) std::rethrow_exception(failure);
  }

 private:
  // What the caller and the thread share.
  struct Desk {
    std::mutex mutex;
    std::condition_variable something_changed;
    std::function<void()> task;
    std::exception_ptr failure;
    bool is_over = false;
  };

  static void work(Desk& desk) {
    std::unique_lock<std::mutex> lock(desk.mutex);
    while (true) {
      desk.something_changed.wait(lock, [&desk] { return desk.task != nullptr || desk.is_over; });
      if (desk.is_over) return;
      lock.unlock();
      std::exception_ptr failure = failure_of(desk.task);
      lock.lock();
      desk.failure = std::exchange(failure, nullptr);  // the caller alone has it: it goes when the caller is done with it
      desk.task = nullptr;
      desk.something_changed.notify_all();
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

  const std::shared_ptr<Desk> desk_;
};

}  // namespace cospipe
