package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
)

// takeProfile writes a profile of a slot's worker into a file, or to w if that is "-".
func takeProfile(ctx context.Context, c *client, w io.Writer, slot int, kind string, seconds int, file string) error {
	resp, err := c.ask(ctx, http.MethodGet, fmt.Sprintf("/v1/profile?slot=%d&kind=%s&seconds=%d", slot, kind, seconds))
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("%w any more on %s: %v", errUnreachable, c.path, err)
	}
	if file == "-" {
		_, err := w.Write(b)
		return err
	}
	if err := os.WriteFile(file, b, 0o644); err != nil {
		return &answerError{text: err.Error()}
	}
	fmt.Fprintf(w, "%s: look at it with  go tool pprof %s\n", file, file)
	return nil
}
