#include "watchdog.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <set>

namespace cospipe {
namespace {

constexpr double kTick_s = 0.1;
constexpr int kTicksBetweenSamples = 10;
constexpr uint64_t kCallsOfWarmingUp = 2;  // its beginning and end; only then does a thread go to its core

std::vector<int> cores_of(const std::vector<Watched>& watched) {
  std::set<int> cores;
  for (const Watched& one : watched) cores.insert(one.cpu_ids.begin(), one.cpu_ids.end());
  return {cores.begin(), cores.end()};
}

std::string seconds_text(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f s", seconds);
  return text;
}

}  // namespace

Watchdog::Watchdog(std::vector<Watched> watched, FramesInStages frames, double stall_timeout_s, bool strict,
                   Report report, Warn warn)
    : watched_(std::move(watched)),
      frames_(std::move(frames)),
      stall_timeout_s_(stall_timeout_s),
      strict_(strict),
      report_(std::move(report)),
      warn_(std::move(warn)),
      monitor_(cores_of(watched_)),
      progress_(watched_.size()) {
  thread_ = std::thread([this] { watch(); });
}

Watchdog::~Watchdog() { end(); }

void Watchdog::end() {
  {
    const std::lock_guard<std::mutex> lock(mutex_);
    is_over_ = true;
  }
  has_ended_.notify_all();
  if (thread_.joinable()) thread_.join();
}

void Watchdog::watch() {
  try {
    watch_until_the_end();
  } catch (const std::exception& error) {
    report_(std::string("The stages cannot be watched any more: ") + error.what() + ".", false);
  }
}

void Watchdog::watch_until_the_end() {
  using Clock = std::chrono::steady_clock;
  auto before = Clock::now();
  for (uint64_t tick = 0;; ++tick) {
    if (tick % kTicksBetweenSamples == 0) look_at_machine();
    std::unique_lock<std::mutex> lock(mutex_);
    if (has_ended_.wait_for(lock, std::chrono::duration<double>(kTick_s), [this] { return is_over_; })) return;
    lock.unlock();
    const auto now = Clock::now();
    // A process that was stopped and goes on has slept, and so have its stages: such a gap counts as one tick.
    look_for_stalls(std::min(std::chrono::duration<double>(now - before).count(), 2 * kTick_s));
    before = now;
  }
}

void Watchdog::look_for_stalls(double passed_s) {
  if (stall_timeout_s_ <= 0) return;
  bool nobody_works = true;
  for (size_t i = 0; i < watched_.size(); ++i) {
    const uint64_t calls = watched_[i].activity->calls();
    const bool has_moved = calls != progress_[i].calls;
    const bool is_at_one = calls % 2 == 1;
    nobody_works = nobody_works && !has_moved && !is_at_one;
    progress_[i] = {calls, is_at_one && !has_moved ? progress_[i].at_it_for_s + passed_s : 0};
    const std::string frame = "at frame " + std::to_string(watched_[i].activity->frame());
    const std::string what = calls < kCallsOfWarmingUp ? "warming up" : frame;
    if (progress_[i].at_it_for_s >= stall_timeout_s_) stall(watched_[i].name + " has been " + what, true);
  }
  look_for_frames_nobody_takes(nobody_works, passed_s);
}

void Watchdog::look_for_frames_nobody_takes(bool nobody_works, double passed_s) {
  const uint64_t frames = frames_();
  nobody_works_for_s_ = nobody_works && frames > 0 ? nobody_works_for_s_ + passed_s : 0;
  if (nobody_works_for_s_ >= stall_timeout_s_)
    stall(std::to_string(frames) + " frames are inside, and no stage has been at work", false);
}

void Watchdog::stall(const std::string& what, bool is_stuck) {
  if (is_stuck ? has_reported_stuck_ : has_reported_) return;
  has_reported_ = true;
  has_reported_stuck_ = has_reported_stuck_ || is_stuck;
  report_(what + " for more than " + seconds_text(stall_timeout_s_) +
              "; the run was ended. If it needs that long, give --stall-timeout.",
          is_stuck);
}

void Watchdog::look_at_machine() {
  std::vector<PinnedThread> threads;
  for (const Watched& one : watched_)
    if (one.owns_its_cores && one.activity->calls() > kCallsOfWarmingUp) threads.push_back({one.name, one.activity->thread(), {one.cpu_ids.front()}});
  monitor_.sample(threads);
  const std::vector<std::string> lost = monitor_.lost_cores();
  for (; warned_ < lost.size(); ++warned_) warn_(lost[warned_]);
  if (!strict_ || lost.empty() || has_reported_) return;
  has_reported_ = true;
  std::string reason = "With --strict the run ends:";
  for (const std::string& one : lost) reason += " " + one;
  report_(reason, false);
}

}  // namespace cospipe
