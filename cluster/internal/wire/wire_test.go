package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/fairlead/fairlead/internal/telemetry"
)

func big() Message {
	f := &Frame{Goroutines: 3}
	for range 4000 {
		f.Samples = append(f.Samples, telemetry.Sample{Name: strings.Repeat("n", 50), Kind: telemetry.Counter, Value: 1})
	}
	return Message{Type: Update, Poll: 7, Frame: f}
}

func TestMessagesOfAnySizeCross(t *testing.T) {
	a, b := net.Pipe()
	from, to := NewConn(a), NewConn(b)
	sent := []Message{{Type: Ready}, big(), {Type: Drain, Stopping: true}, big()}
	go func() {
		for _, m := range sent {
			if err := from.Send(m); err != nil {
				t.Error(err)
			}
		}
		from.Close()
	}()
	for i, want := range sent {
		got, err := to.Receive()
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("message %d came out different", i)
		}
	}
	if _, err := to.Receive(); err != io.EOF {
		t.Errorf("at the end: %v, want EOF", err)
	}
}

func TestAStreamMayCutAnywhere(t *testing.T) {
	var b bytes.Buffer
	want := bytes.Repeat([]byte("abc"), maxChunk)
	if err := writeMessage(&b, want); err != nil {
		t.Fatal(err)
	}
	got, err := (&reader{r: iotest.HalfReader(&b)}).next()
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
}

func FuzzReader(f *testing.F) {
	var b bytes.Buffer
	writeMessage(&b, []byte(`{"type":"ready"}`))
	f.Add(b.Bytes())
	f.Add([]byte{0x80, 0, 0, 1, 'x'})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0, 0, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		r := &reader{r: bytes.NewReader(in)}
		for {
			m, err := r.next()
			if err == nil {
				if len(m) == 0 || len(m) > len(in) {
					t.Fatalf("%d bytes out of %d", len(m), len(in))
				}
				continue
			}
			if err != io.EOF && err != io.ErrUnexpectedEOF && !errors.Is(err, ErrMalformed) {
				t.Fatalf("unexpected error %v", err)
			}
			return
		}
	})
}
