import { DefaultFailureConverter } from '@temporalio/common';

/**
 * Puts the messages and stacks of failures where the payload codec encrypts them; what people see without the key is
 * "Encoded failure". Types, such as `store-unavailable`, stay readable. The name is what Temporal looks for.
 */
export const failureConverter = new DefaultFailureConverter({ encodeCommonAttributes: true });
