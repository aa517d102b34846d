// Threads of a group that wait for each other: here threads of the system, with a barrier.
#include <barrier>
#include <thread>
#include <vector>

static std::barrier<>* gate;
#define threadgroup static  // shared by the threads of the one group that runs
enum class mem_flags { mem_threadgroup };
inline void threadgroup_barrier(mem_flags) { gate->arrive_and_wait(); }
#define __shared__ static
inline void __syncthreads() { gate->arrive_and_wait(); }

template <typename Body>
static void run_group(unsigned threads, Body body) {
    std::barrier<> here(threads);
    gate = &here;
    std::vector<std::thread> running;
    for (unsigned i = 0; i < threads; i++) running.emplace_back(body, i);
    for (std::thread& one : running) one.join();
}
