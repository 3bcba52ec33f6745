package offload

import (
	"container/list"
	"time"

	"github.com/fairlead/fairlead/scale/overload"
)

// queue holds the tasks that wait, in a line for each priority.
//
// The line whose turn it is is that with the highest priority, where a line that has waited for `aging` without a turn counts
// as one of the next higher priority, after twice that as two higher, and so on. So a flood of critical tasks leaves
// sheddable ones a turn every two agings, which is before they time out.
//
// Within a line the oldest comes first, or when it stands (it has not been empty for a while) the newest.
type queue struct {
	lines    [3]line // sheddable, default, critical
	n        int
	aging    time.Duration // negative: never
	standing time.Duration // negative: never
}

type line struct {
	tasks list.List // of *task, the oldest first
	since time.Time // when it was last empty
	turn  time.Time // when it was last served or empty
}

func lineOf(p overload.Priority) int { return int(p - overload.Sheddable) }

func (q *queue) push(now time.Time, t *task) {
	l := &q.lines[lineOf(t.priority)]
	if l.tasks.Len() == 0 {
		l.since, l.turn = now, now
	}
	t.place = l.tasks.PushBack(t)
	q.n++
}

func (q *queue) remove(t *task) {
	q.lines[lineOf(t.priority)].tasks.Remove(t.place)
	t.place = nil
	q.n--
}

// next is the task whose turn it is, which stays; nil when none waits.
func (q *queue) next(now time.Time) *task {
	best, rank := -1, 0.0
	for i := range q.lines {
		l := &q.lines[i]
		if l.tasks.Len() == 0 {
			continue
		}
		r := float64(i)
		if q.aging > 0 {
			r += float64(now.Sub(l.turn)) / float64(q.aging)
		}
		if best < 0 || r >= rank {
			best, rank = i, r
		}
	}
	if best < 0 {
		return nil
	}
	l := &q.lines[best]
	if q.stands(now, l) {
		return l.tasks.Back().Value.(*task)
	}
	return l.tasks.Front().Value.(*task)
}

// served takes out a task that next returned: its line has had its turn.
func (q *queue) served(now time.Time, t *task) {
	q.lines[lineOf(t.priority)].turn = now
	q.remove(t)
}

func (q *queue) stands(now time.Time, l *line) bool {
	return q.standing >= 0 && l.tasks.Len() > 0 && now.Sub(l.since) > q.standing
}

// anyStands says whether the tasks of some priority have waited without a break.
func (q *queue) anyStands(now time.Time) bool {
	for i := range q.lines {
		if q.stands(now, &q.lines[i]) {
			return true
		}
	}
	return false
}

// victim is who makes room for a task of a higher priority: the oldest of the lowest, which is the next to time out.
func (q *queue) victim(p overload.Priority) *task {
	for i := range lineOf(p) {
		if front := q.lines[i].tasks.Front(); front != nil {
			return front.Value.(*task)
		}
	}
	return nil
}
