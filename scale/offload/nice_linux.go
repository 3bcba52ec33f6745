package offload

import "syscall"

// niceThread lowers the priority of the calling thread; Linux has one for each. One that is lower already stays.
func niceThread() error {
	tid := syscall.Gettid()
	if raw, err := syscall.Getpriority(syscall.PRIO_PROCESS, tid); err == nil && 20-raw >= niceness {
		return nil
	}
	return syscall.Setpriority(syscall.PRIO_PROCESS, tid, niceness)
}
