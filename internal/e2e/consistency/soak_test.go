//go:build soak

package consistency

import "testing"

func TestSoakReadsInAnotherProcess(t *testing.T) { readsInAnotherProcess(t, 100_000/len(lags)) }

func TestSoakReadsThroughTheCache(t *testing.T) { cachedReadsInAnotherProcess(t, 20_000/len(lags)) }

func TestSoakNoStaleRefill(t *testing.T) { noStaleRefill(t, 10_000) }

// Fresh servers for each failover, since it uses up the primary.
func TestSoakHistories(t *testing.T) {
	t.Run("replica faults", func(t *testing.T) {
		pg := own(t)
		run(t, pg, 12, 500, 0, func(t *testing.T) { replicaFaults(t, pg, 40) })
	})
	for range 10 {
		t.Run("failover", func(t *testing.T) {
			pg := own(t)
			run(t, pg, 12, 300, 1, func(t *testing.T) {
				replicaFaults(t, pg, 2)
				failover(t, pg)
			})
		})
	}
}
