//go:build soak

package redislimit

import (
	"testing"
	"time"
)

func TestSoakEightProcessesHoldOneLimit(t *testing.T) {
	t.Run("exact", func(t *testing.T) { exactFleet(t, 10*time.Second) })
	t.Run("leased", func(t *testing.T) { leasedFleet(t, 10*time.Second) })
}
