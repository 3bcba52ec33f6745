package cachetest

import (
	"sync"

	"github.com/fairlead/fairlead/cache"
)

// races has loaders and writers at one key: what is stored when an invalidation has returned was loaded after it was called.
func (s *suite) races() {
	const rounds = 100
	var version sync.Map // lease -> the version it loaded
	var current struct {
		sync.Mutex
		n int
	}
	stop := make(chan struct{})
	var loaders sync.WaitGroup
	for _, r := range []cache.Remote{s.a, s.b, s.a, s.b} {
		loaders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				lease := id()
				got, err := r.Get(s.Context(), s.space, []cache.Ask{{Key: "k", Lease: lease, Hold: hold}})
				if err != nil {
					s.Error(err)
					return
				}
				if !got[0].Leased {
					continue
				}
				current.Lock()
				version.Store(lease, current.n)
				current.Unlock()
				if _, err := r.Put(s.Context(), s.space, []cache.Fill{{Key: "k", Lease: lease, Data: []byte("v"), TTL: hold}}); err != nil {
					s.Error(err)
					return
				}
			}
		})
	}
	for n := 1; n <= rounds && !s.Failed(); n++ {
		current.Lock()
		current.n = n
		current.Unlock()
		s.drop(s.b, "", "k")
		if got := s.get(s.a, cache.Ask{Key: "k"}); got.ID != "" {
			if v, _ := version.Load(got.ID); v.(int) < n {
				s.Errorf("version %d stands after version %d was invalidated", v, n)
			}
		}
	}
	close(stop)
	loaders.Wait()
}
