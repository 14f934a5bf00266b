#include "signals.h"

#include <poll.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "errors.h"

namespace cospipe {
namespace {

constexpr int kHalfASecond_ms = 500;
constexpr int kStatusOfSignals = 128;

// Weights and inputs are mapped: whoever makes their file shorter takes memory away that is in use.
void end_without_file(int) {
  static const char kSentence[] = "cospipe-run: A file that is in use was made shorter by somebody, or its disk failed.\n";
  if (write(STDERR_FILENO, kSentence, sizeof kSentence - 1) < 0) _exit(1);  // there is nobody to tell
  _exit(1);
}

}  // namespace

Signals::Signals() {
  signal(SIGPIPE, SIG_IGN);  // a reader that went away is an error of the write,
  signal(SIGXFSZ, SIG_IGN);  // and so is a file that may not grow further
  signal(SIGBUS, end_without_file);
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set, number);
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  signals_ = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (signals_ < 0) throw Error("Signals cannot be waited for: too many files are open, or there is no memory left.");
  thread_ = std::thread([this] { wait(); });
}

Signals::~Signals() {
  end();
  is_over_.request();
  thread_.join();
  close(signals_);
}

void Signals::answer(Stop& stop, std::function<void()> hang_up, std::function<void()> now_and_then) {
  const std::lock_guard<std::mutex> lock(mutex_);
  stop_ = &stop;
  hang_up_ = std::move(hang_up);
  now_and_then_ = std::move(now_and_then);
  hang_ups_ = std::thread([this] { answer_hang_ups(); });
}

void Signals::end() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    stop_ = nullptr;
    now_and_then_ = nullptr;
    has_ended_ = true;
  }
  something_happened_.notify_all();
  if (hang_ups_.joinable()) hang_ups_.join();
}

// Several SIGHUPs that come while one is answered are one.
void Signals::answer_hang_ups() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    something_happened_.wait(lock, [this] { return has_hung_up_ || has_ended_; });
    if (has_ended_) return;
    has_hung_up_ = false;
    lock.unlock();
    hang_up_();
    lock.lock();
  }
}

void Signals::wait() {
  while (!is_over_.is_requested()) {
    pollfd waited[] = {{signals_, POLLIN, 0}, {is_over_.readable(), POLLIN, 0}};
    poll(waited, 2, kHalfASecond_ms);
    const std::lock_guard<std::mutex> lock(mutex_);
    take();
    if (now_and_then_) now_and_then_();
  }
}

void Signals::take() {
  signalfd_siginfo info;
  while (read(signals_, &info, sizeof info) == static_cast<ssize_t>(sizeof info)) {
    if (info.ssi_signo != SIGHUP) {
      interrupt(static_cast<int>(info.ssi_signo));
    } else {
      has_hung_up_ = true;
      something_happened_.notify_all();
    }
  }
}

void Signals::interrupt(int number) {
  const bool is_second = interrupted_by_.exchange(number) != 0;
  if (is_second || stop_ == nullptr) _exit(kStatusOfSignals + number);
  stop_->request();
}

}  // namespace cospipe
