import { historyFromJSON } from '@temporalio/common/lib/proto-utils.js';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { costOf, sumOf, type HistoryEvents } from '../../scripts/lib/billable-actions.ts';
import { costOfADay, heartbeats, type Measured } from '../../scripts/lib/cost-of-a-day.ts';
import { repositoryRoot } from '../support/tools.ts';

function recorded(name: string): HistoryEvents {
  const text = readFileSync(join(repositoryRoot, `test/histories/${name}.json`), 'utf8');
  return historyFromJSON(JSON.parse(text)).events ?? [];
}

describe('billable actions of a history', () => {
  it('counts a backup: its start, its activities, its timers, what it tells', () => {
    const events = recorded('0.1.0-base-backup-completed');
    const { events: all, actions, byKind } = costOf(events);
    expect(all).toBe(events.length);
    expect(byKind['workflow started']).toBe(1);
    expect(byKind['activity started or retried']).toBe(
      events.filter((event) => event.activityTaskStartedEventAttributes).length,
    );
    expect(actions).toBe(Object.values(byKind).reduce((sum, count) => sum + count, 0));
  });

  it('counts each attempt of an activity that was retried', () => {
    const event = { activityTaskStartedEventAttributes: { attempt: 3 } };
    expect(costOf([event]).actions).toBe(3);
  });

  it('counts a signal between two runs once, and one of a client where it arrives', () => {
    const sent = { signalExternalWorkflowExecutionInitiatedEventAttributes: {} };
    const heard = {
      workflowExecutionSignaledEventAttributes: { externalWorkflowExecution: { workflowId: 'x' } },
    };
    const fromClient = { workflowExecutionSignaledEventAttributes: {} };
    expect(sumOf([costOf([sent]), costOf([heard]), costOf([fromClient])]).actions).toBe(2);
  });

  it('counts the markers of one workflow task once', () => {
    const marker = { markerRecordedEventAttributes: { workflowTaskCompletedEventId: null } };
    expect(costOf([marker, marker]).actions).toBe(1);
  });
});

describe('the cost of a day', () => {
  const nothing = { events: 0, actions: 0, byKind: {} };
  const one = { events: 3, actions: 1, byKind: {} };
  const measured: Measured = {
    backup: one,
    backupEvents: 3,
    audit: one,
    verification: nothing,
    archivingReport: one,
    instanceReport: one,
    idleSeconds: 86_400,
  };

  it('heartbeats: lively at first, then a few a minute, as the activities send them', () => {
    expect(heartbeats(0, 60)).toBe(1);
    expect(heartbeats(299, 60)).toBe(60);
    expect(heartbeats(3600, 60)).toBe(60 + 165 + 1);
    expect(heartbeats(3600, 3600)).toBeLessThan(heartbeats(3600, 60));
  });

  it('is the sum of what happens, as often as it happens', () => {
    const rows = costOfADay(measured, {
      instances: 2,
      backupSeconds: 0,
      verificationSeconds: 0,
      heartbeatTimeoutSeconds: 60,
      archivingReportSeconds: 3600,
      archivingBeatSeconds: 300,
      instanceReportSeconds: 3600,
      auditSeconds: 21_600,
      looks: 0,
    });
    const of = (what: string) => rows.find((row) => row.what === what)?.actions;
    expect(of('audit')).toBe(4);
    expect(of('report of archiving')).toBe(24);
    expect(of('report of an instance')).toBe(48);
    expect(of('backup by schedule, with its sweep and audit')).toBe(3);
    expect(of('keeper wakes with nothing to do')).toBe(1);
  });
});
