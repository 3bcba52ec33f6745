package offload

import (
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	Main()
	os.Setenv("GORACE", "atexit_sleep_ms=0") // for the processes, which else take a second to end under -race
	os.Exit(m.Run())
}
