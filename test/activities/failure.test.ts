import { describe, expect, it } from 'vitest';
import { type ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { translateFailure } from '../../activities/failure.ts';
import { BackupError, ERRORS, type ErrorCode } from '../../core/errors.ts';

const CANARY = 'c4n4ry-s3cr3t';

describe('translateFailure', () => {
  it.for(Object.keys(ERRORS) as ErrorCode[])(
    '%s keeps its code, advice and whether a retry can help',
    (code) => {
      const failure = translateFailure(new BackupError(code, 'what happened')) as ApplicationFailure;
      expect(failure.type).toBe(code);
      expect(failure.nonRetryable).toBe(!ERRORS[code].retryable);
      expect(failure.details).toEqual([ERRORS[code].hint]);
    },
  );

  it('S1: causes never travel, and what the unforeseen says is scrubbed', () => {
    const cause = new Error(`signed with ${CANARY}`);
    const foreseen = translateFailure(new BackupError('access-denied', 'refused', { cause }));
    const unforeseen = translateFailure(new Error(`connect postgres://u:${CANARY}@h/d failed`, { cause }));
    const quoting = translateFailure(
      new BackupError('postgres-unavailable', `no pg_hba.conf entry for password=${CANARY}`, {
        hint: `look at postgres://u:${CANARY}@h`,
      }),
    );
    expect((quoting as ApplicationFailure).details).toEqual(['look at postgres://u:[secret]@h']);
    for (const failure of [foreseen, unforeseen, quoting]) {
      expect(failure.cause).toBeUndefined();
      expect(`${failure.message}${failure.stack}`).not.toContain(CANARY);
    }
    expect((unforeseen as ApplicationFailure).nonRetryable).toBeFalsy();
  });

  it('what belongs to Temporal passes as it is', () => {
    const cancelled = new CancelledFailure('stop');
    expect(translateFailure(cancelled)).toBe(cancelled);
  });
});
