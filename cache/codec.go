package cache

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/klauspost/compress/s2"
)

// Codec turns values into bytes and back. It must be safe for concurrent use.
type Codec interface {
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

type jsonCodec struct{}

func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

const (
	compressFrom = 1 << 10 // bytes
	compressible = 0.9     // of the size, at most, or it is not worth the time
)

var errTooLarge = errors.New("larger than Options.MaxValueSize")

// pack returns data as it is stored: compressed where that is worth it.
func pack(data []byte, limit int) (packed []byte, compressed bool, err error) {
	if len(data) > limit {
		return nil, false, fmt.Errorf("%d bytes: %w", len(data), errTooLarge)
	}
	if len(data) >= compressFrom {
		if p := s2.Encode(nil, data); float64(len(p)) <= compressible*float64(len(data)) {
			return p, true, nil
		}
	}
	return data, false, nil
}

// unpack undoes pack. It looks at the size before it makes room: a few bytes may claim to be gigabytes.
func unpack(packed []byte, compressed bool, limit int) ([]byte, error) {
	if !compressed {
		if len(packed) > limit {
			return nil, errTooLarge
		}
		return packed, nil
	}
	switch size, err := s2.DecodedLen(packed); {
	case err != nil:
		return nil, err
	case size > limit:
		return nil, errTooLarge
	}
	return s2.Decode(nil, packed)
}
