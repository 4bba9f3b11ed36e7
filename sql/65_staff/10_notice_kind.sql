-- Notices to staff.

insert into loyalty_private.notice_kind
       (kind, place, is_chosen, can_be_refused, proof, context_function, example, optional)
values ('staff_invitation', 21, false, false, 'link', 'loyalty_private.challenge_context', '{"en": {}}', '[]');
