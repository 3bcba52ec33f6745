package session

import (
	"encoding/json"
	"fmt"
	"slices"
)

// Codec turns values into bytes and back. It must be safe for concurrent use.
type Codec interface {
	// Format is a number that all records of the codec carry: what Marshal writes now, Unmarshal must read for ever, or
	// the number has to change. Applications have 32 to 255.
	Format() byte
	Marshal(v any) ([]byte, error)
	Unmarshal(data []byte, v any) error
}

// JSON is the Codec that is used unless Options say otherwise: encoding/json. Its format is 1.
var JSON Codec = jsonCodec{}

type jsonCodec struct{}

func (jsonCodec) Format() byte                       { return 1 }
func (jsonCodec) Marshal(v any) ([]byte, error)      { return json.Marshal(v) }
func (jsonCodec) Unmarshal(data []byte, v any) error { return json.Unmarshal(data, v) }

func checkCodecs(codecs []Codec, errs []error) ([]Codec, []error) {
	if len(codecs) == 0 {
		return []Codec{JSON}, errs
	}
	var formats []byte
	for i, c := range codecs {
		if c == nil {
			errs = append(errs, fmt.Errorf("session: Options.Codecs[%d] is nil", i))
			continue
		}
		_, ours := c.(jsonCodec)
		switch {
		case !ours && c.Format() < 32:
			errs = append(errs, fmt.Errorf("session: Options.Codecs[%d].Format() = %d: must be 32 to 255", i, c.Format()))
		case slices.Contains(formats, c.Format()):
			errs = append(errs, fmt.Errorf("session: Options.Codecs[%d].Format() = %d: must be another for each codec", i, c.Format()))
		}
		formats = append(formats, c.Format())
	}
	return slices.Clone(codecs), errs
}

// codec returns the one with the given format, nil if it is not known here.
func (m *Manager[T]) codec(format byte) Codec {
	for _, c := range m.o.Codecs {
		if c.Format() == format {
			return c
		}
	}
	return nil
}

func (m *Manager[T]) known(format byte) bool { return m.codec(format) != nil }

// encode and decode run code of T, which may panic: that is the failure of the one value, whose change or read it is.
func (m *Manager[T]) encode(v T) (data []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			data, err = nil, m.fail(fmt.Errorf("encode: %T panicked: %v", v, p))
		}
	}()
	if data, err = m.o.Codecs[0].Marshal(v); err != nil {
		return nil, m.fail(fmt.Errorf("encode: %w", err))
	}
	return data, nil
}

func (m *Manager[T]) decode(format byte, data []byte) (v T, err error) {
	defer func() {
		if p := recover(); p != nil {
			v, err = *new(T), m.fail(fmt.Errorf("decode: %T panicked: %v", v, p))
		}
	}()
	if err := m.codec(format).Unmarshal(data, &v); err != nil {
		return *new(T), m.fail(fmt.Errorf("decode: %w", err))
	}
	return v, nil
}
