import { describe, expect, it } from 'vitest';
import { type ApplicationFailure, CancelledFailure } from '@temporalio/common';
import { translateFailure } from '../../activities/failure.ts';
import { scrub } from '../../activities/scrub.ts';
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
    for (const failure of [foreseen, unforeseen]) {
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

describe('scrub', () => {
  it.for([
    `postgresql://walkeep:${CANARY}@db:5432/postgres`,
    `password=${CANARY} host=db`,
    `{"secretAccessKey":"${CANARY}"}`,
    `AWS_SECRET_ACCESS_KEY: ${CANARY}`,
    `Authorization: Bearer ${CANARY}`,
    `https://b.s3/x?X-Amz-Signature=${CANARY}&X-Amz-Date=1`,
    `https://a.blob.core.windows.net/c/k?sv=1&sig=${CANARY}%2F%3D&se=2`,
    `AccountName=a;AccountKey=${CANARY}==;EndpointSuffix=core.windows.net`,
    `BlobEndpoint=https://a/;SharedAccessSignature=sv=1&sig=${CANARY}`,
    `got ya29.${CANARY} from the metadata server`,
    `assertion eyJhbGciOiJSUzI1NiJ9.${CANARY}.${CANARY} was refused`,
    `-----BEGIN PRIVATE KEY-----\n${CANARY}\n-----END PRIVATE KEY-----`,
  ])('S1: takes the secret out of %s', (text) => {
    expect(scrub(text)).not.toContain(CANARY);
  });

  it('leaves ordinary text alone', () => {
    const text = 'segment 000000010000000000000002 is not in s3://bucket/prefix (expected 16777216 bytes)';
    expect(scrub(text)).toBe(text);
  });
});
