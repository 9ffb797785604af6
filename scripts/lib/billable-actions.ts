import type { historyFromJSON } from '@temporalio/common/lib/proto-utils.js';

export type HistoryEvents = NonNullable<ReturnType<typeof historyFromJSON>['events']>;

/** What a run cost: events of its history, and actions as Temporal Cloud bills them, by kind. */
export interface RunCost {
  readonly events: number;
  readonly actions: number;
  readonly byKind: Readonly<Record<string, number>>;
}

/**
 * Counts by Temporal's definition of an action what a history shows. What it does not show comes on top: heartbeats that
 * reached the server, queries, refused updates, and two for each time a Schedule starts something.
 *
 * @see https://docs.temporal.io/cloud/actions
 */
export function costOf(events: HistoryEvents): RunCost {
  const byKind: Record<string, number> = {};
  const add = (kind: string, count = 1) => (byKind[kind] = (byKind[kind] ?? 0) + count);
  // All markers of one workflow task (local activities, patches) are one action.
  const markedTasks = new Set<string>();
  for (const event of events) {
    if (event.workflowExecutionStartedEventAttributes) add('workflow started');
    if (event.startChildWorkflowExecutionInitiatedEventAttributes) add('child asked for');
    const activity = event.activityTaskStartedEventAttributes;
    if (activity) add('activity started or retried', activity.attempt ?? 1);
    if (event.timerStartedEventAttributes) add('timer');
    const upserted = event.upsertWorkflowSearchAttributesEventAttributes?.searchAttributes?.indexedFields;
    if (upserted && Object.keys(upserted).some((name) => name !== 'TemporalChangeVersion'))
      add('search attributes');
    // Counted where it was sent; one that came from a client has no other trace.
    if (event.signalExternalWorkflowExecutionInitiatedEventAttributes) add('signal');
    const signal = event.workflowExecutionSignaledEventAttributes;
    if (signal && !signal.externalWorkflowExecution?.workflowId) add('signal');
    if (event.workflowExecutionUpdateAcceptedEventAttributes) add('update');
    if (event.markerRecordedEventAttributes) {
      const task = String(event.markerRecordedEventAttributes.workflowTaskCompletedEventId ?? '');
      if (!markedTasks.has(task)) add('markers of a task');
      markedTasks.add(task);
    }
    if (event.workflowExecutionOptionsUpdatedEventAttributes) add('options updated');
  }
  const actions = Object.values(byKind).reduce((sum, count) => sum + count, 0);
  return { events: events.length, actions, byKind };
}

/** Costs of several runs together. */
export function sumOf(costs: readonly RunCost[]): RunCost {
  const byKind: Record<string, number> = {};
  for (const cost of costs) {
    for (const [kind, count] of Object.entries(cost.byKind)) byKind[kind] = (byKind[kind] ?? 0) + count;
  }
  return {
    events: costs.reduce((sum, { events }) => sum + events, 0),
    actions: costs.reduce((sum, { actions }) => sum + actions, 0),
    byKind,
  };
}
